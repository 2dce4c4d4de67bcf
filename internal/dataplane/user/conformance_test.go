package user

import (
	"os"
	"testing"

	"github.com/vishvananda/netns"

	"kedge/internal/dataplane/conformance"
	"kedge/internal/dataplane/conformance/kernel"
)

// TestConformance runs the suite against real interfaces. It needs root.
func TestConformance(t *testing.T) {
	conformance.Run(t, kernel.Factory(openPlane))
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// namespaces makes two, and leaves the thread in the router's until the test ends.
func namespaces(t *testing.T) (outside, inside netns.NsHandle) {
	t.Helper()
	return kernel.Namespaces(t)
}

// link makes a veth pair: name inside, the test's end outside. The thread is inside.
func link(t *testing.T, outside, inside netns.NsHandle, name string) {
	t.Helper()
	kernel.Link(t, outside, inside, name)
}

func sysctl(t *testing.T, name, value string) {
	t.Helper()
	must(t, os.WriteFile("/proc/sys/net/"+name, []byte(value), 0))
}
