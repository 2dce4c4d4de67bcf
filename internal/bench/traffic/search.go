package traffic

// MaxLoss is the part of the packets that may be lost at the rate that Search finds.
const MaxLoss = 0.001

// Search finds the highest rate at which no more than MaxLoss is lost, packets a second that arrived. probe sends at a rate (0 = as
// fast as it can), shortly or for the time of a sample. hint is what an earlier search found, 0 = nothing.
//
// What the sender alone cannot overload is settled by one long probe. Else the rate is bracketed, narrowed by eight short
// probes at most, and confirmed by a long one, which may take it down: by 3 % a try, and after a dozen by a third, for on a machine
// that is busy with something else a few packets of a thousand are lost at many rates.
func Search(probe func(rate float64, long bool) (Probe, error), hint float64) (float64, error) {
	const (
		near  = 0.02 // the bracket is narrow enough
		steps = 8
		tries = 12
		more  = 12
	)
	good := func(p Probe) bool { return p.Loss() <= MaxLoss }
	top, err := probe(0, true)
	if err != nil || good(top) {
		return top.Rate(), err
	}
	low, high := 0.0, top.Offered()
	if hint > 0 && hint < high {
		high = min(high, hint*1.3)
	}
	at := min(high, max(hint, top.Rate()*0.8))
	for range steps {
		p, err := probe(at, false)
		if err != nil {
			return 0, err
		}
		if good(p) {
			low = at
		} else {
			high = at
		}
		if low > 0 && high/low < 1+near {
			break
		}
		if at = (low + high) / 2; low == 0 {
			at = max(high*0.5, min(high*0.9, p.Rate()*0.98)) // what came through is a good guess, unless overload itself takes its toll
		}
	}
	if low == 0 {
		low = at
	}
	for try := range tries + more {
		p, err := probe(low, true)
		if err != nil {
			return 0, err
		}
		if good(p) {
			return p.Rate(), nil
		}
		if low *= 0.97; try >= tries {
			low *= 0.7
		}
	}
	return 0, nil
}
