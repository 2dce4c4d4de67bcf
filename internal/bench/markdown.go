package bench

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"kedge/internal/bench/stats"
)

// Marks between which a document has its figures.
const (
	markBegin = "<!-- figures: begin (kedge bench dataplane --markdown) -->"
	markEnd   = "<!-- figures: end -->"
)

// WritePictures writes the charts into a directory, which is made.
func (r *Report) WritePictures(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for name, s := range r.Pictures() {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(s), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// WriteMarkdown puts the figures into a document in place of those between its marks; a document without marks gets them at its
// end, and one that does not exist is made. pictures is the directory of the charts; "" = none are shown.
func (r *Report) WriteMarkdown(file, pictures string) error {
	old, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	link := ""
	if pictures != "" {
		if link, err = filepath.Rel(filepath.Dir(file), pictures); err != nil {
			return err
		}
	}
	text, err := insert(old, r.Markdown(filepath.ToSlash(link)))
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return os.WriteFile(file, text, 0o644)
}

func insert(doc []byte, figures string) ([]byte, error) {
	part := markBegin + "\n" + figures + markEnd
	begin, end := bytes.Index(doc, []byte(markBegin)), bytes.Index(doc, []byte(markEnd))
	switch {
	case begin < 0 && end < 0:
		if len(doc) > 0 {
			doc = append(bytes.TrimRight(doc, "\n"), "\n\n"...)
		}
		return append(doc, part+"\n"...), nil
	case begin < 0 || end < begin:
		return nil, errors.New("one of the two marks of the figures is missing")
	}
	return slices.Concat(doc[:begin], []byte(part), doc[end+len(markEnd):]), nil
}

// Markdown is the figures as a part of a document. Pictures are linked below the path, none if that is "".
func (r *Report) Markdown(pictures string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n\n", r.Describe())
	b.WriteString("### Targets\n\nA target is reached if the whole interval is beyond it, missed if none of it is, else undecided. Worst and best of what was measured:\n\n")
	r.summary().markdown(&b)
	shown := r.Pictures()
	for _, c := range r.Columns {
		t := r.figures(c)
		if len(t) < 2 {
			continue
		}
		fmt.Fprintf(&b, "\n### %s (`%s`)\n\n", strings.ToUpper(c.Text[:1])+c.Text[1:], c.Name)
		for _, name := range pictureNames(shown, c.Name) {
			if pictures != "" {
				fmt.Fprintf(&b, "![%s](%s)\n\n", name, path.Join(pictures, name))
			}
		}
		t.markdown(&b)
	}
	if len(r.Memory) > 0 {
		b.WriteString("\n### Kernel memory\n\n")
		t := table{{"", "sessions", "octets a session"}}
		for _, m := range r.Memory {
			t = append(t, []string{m.Way, fmt.Sprint(m.Sessions), number(float64(m.Octets) / float64(m.Sessions))})
		}
		t.markdown(&b)
	}
	if len(r.Notes) > 0 {
		b.WriteString("\n### Notes of the run\n\n")
		for _, n := range r.Notes {
			fmt.Fprintf(&b, "- %s\n", n)
		}
	}
	return b.String()
}

func pictureNames(all map[string]string, column string) (names []string) {
	for name := range all {
		if strings.HasPrefix(name, column+"-plain") || strings.HasPrefix(name, column+"-wireguard") || column == colMany && name == "sessions.svg" {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// summary is one row for each target.
func (r *Report) summary() table {
	t := table{{"target", "", "measured", "worst", "reached", "undecided", "missed"}}
	var order []string
	of := map[string][]Judgement{}
	for _, j := range r.Judgements {
		if of[j.Target] == nil {
			order = append(order, j.Target)
		}
		of[j.Target] = append(of[j.Target], j)
	}
	for _, name := range order {
		all := of[name]
		count, low, high := map[stats.Verdict]int{}, math.Inf(1), math.Inf(-1)
		worst := all[0]
		for _, j := range all {
			count[j.Verdict]++
			low, high = min(low, j.Interval.Median), max(high, j.Interval.Median)
			if (j.Interval.Median < worst.Interval.Median) != j.Most {
				worst = j
			}
		}
		bound := ">= "
		if worst.Most {
			bound = "<= "
		}
		t = append(t, []string{
			name, bound + number(worst.At), number(low) + " to " + number(high), fmt.Sprintf("%s of %s: %s", worst.Column, worst.Way, interval(worst.Interval)),
			fmt.Sprint(count[stats.Reached]), fmt.Sprint(count[stats.Undecided]), fmt.Sprint(count[stats.Missed]),
		})
	}
	return t
}
