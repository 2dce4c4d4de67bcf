package lab

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"kedge/internal/lab/scenario"
	"kedge/internal/system/netns"
)

// TestMain lets the test binary be a lab that somebody kills.
func TestMain(m *testing.M) {
	if os.Getenv("KEDGE_LAB_VICTIM") != "" {
		victim()
		return
	}
	os.Exit(m.Run())
}

// victim builds a network with a DHCP client in it, says its id, and hangs.
func victim() {
	s, err := scenario.Parse("victim.yaml", []byte(`
version: 1
scenario: victim
links: { air: { access: true } }
nodes: { h: { host: udhcpc, at: air, mac: "02:00:00:00:00:01" } }
`))
	if err != nil {
		panic(err)
	}
	r, err := newRun(s, Options{Binary: "/bin/false", Out: os.Getenv("KEDGE_LAB_VICTIM"), Files: templates("")})
	if err != nil {
		panic(err)
	}
	if err := clearDir(r.dir); err != nil {
		panic(err)
	}
	if r.claim, err = newClaim(kindRun, "victim"); err != nil {
		panic(err)
	}
	r.start = time.Now()
	if err := r.up(context.Background()); err != nil {
		panic(err)
	}
	fmt.Println(r.claim.id, r.node("h").host.clients["eth0"].cmd.Process.Pid)
	select {}
}

// TestKilledLabIsSwept: after kill -9 of a lab its children die, and the next lab removes its namespaces; a lab that lives is
// left alone.
func TestKilledLabIsSwept(t *testing.T) {
	living, err := newClaim(kindRun, "living")
	if err != nil {
		t.Fatal(err)
	}
	defer living.release()
	ns, err := netns.New(living.ns("x"))
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()

	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "KEDGE_LAB_VICTIM="+t.TempDir())
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var id string
	var child int
	line, err := bufio.NewReader(out).ReadString('\n')
	if _, serr := fmt.Sscan(line, &id, &child); err != nil || serr != nil {
		t.Fatalf("the victim said %q: %v, %v", line, err, serr)
	}
	if alive, _, err := runs(); err != nil || !slices.ContainsFunc(alive, func(r Running) bool { return r.ID == id && r.PID == cmd.Process.Pid && r.Scenario == "victim" }) {
		t.Errorf("the victim is not among the living: %v, %v", alive, err)
	}
	if swept, err := Sweep(); err != nil || slices.Contains(swept, id) {
		t.Errorf("a living lab was swept: %v, %v", swept, err)
	}
	if len(leftovers(id)) != 2 {
		t.Fatalf("namespaces of the victim: %v", leftovers(id))
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // killed: an error by design
	if err := poll(t.Context(), 5*time.Second, func() bool { return syscall.Kill(child, 0) != nil || zombie(child) }); err != nil {
		t.Errorf("the DHCP client outlived its lab: %v", err)
	}
	swept, err := Sweep()
	if err != nil || !slices.Contains(swept, id) {
		t.Errorf("the dead lab was not swept: %v, %v", swept, err)
	}
	if left := leftovers(id); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
	if left := leftovers(living.id); len(left) != 1 {
		t.Errorf("the living lab has %v, want its namespace", left)
	}
}

func zombie(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || strings.Contains(string(b), ") Z ")
}

// TestRemoveKillsStrays: a process inside a namespace of the run dies with it, whoever its parent is.
func TestRemoveKillsStrays(t *testing.T) {
	c, err := newClaim(kindRun, "strays")
	if err != nil {
		t.Fatal(err)
	}
	ns, err := netns.New(c.ns("x"))
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	cmd := exec.Command("sleep", "1000")
	if err := ns.Start(cmd); err != nil {
		t.Fatal(err)
	}
	bystander := exec.Command("sleep", "1000")
	if err := bystander.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = bystander.Process.Kill(); _ = bystander.Wait() }()
	if err := c.release(); err != nil {
		t.Error(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Error("the stray ended well")
	}
	if err := bystander.Process.Signal(syscall.Signal(0)); err != nil {
		t.Error("a process outside was killed")
	}
	if _, err := os.Stat(c.dir); err == nil || len(leftovers(c.id)) > 0 {
		t.Error("something is left")
	}
}
