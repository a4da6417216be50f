//go:build bench

package bench

// This file writes measured figures into RESULTS.md, between marks, and leaves everything around them alone.

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"
)

const results = "RESULTS.md"

// record replaces the section of that name. A trial (-short) changes nothing.
func record(t *testing.T, name, text string) {
	t.Helper()
	t.Logf("%s:\n%s", name, text)
	if testing.Short() {
		return
	}
	old, err := os.ReadFile(results)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(results, []byte(withSection(string(old), name, text)), 0o644); err != nil {
		t.Fatal(err)
	}
}

func withSection(old, name, text string) string {
	begin, end := "<!-- measured: "+name+" -->\n", "<!-- end of "+name+" -->\n"
	section := begin + "\n" + strings.TrimSpace(text) + "\n\n" + end
	from, to := strings.Index(old, begin), strings.Index(old, end)
	if from < 0 || to < from {
		return strings.TrimRight(old, "\n") + "\n\n" + section
	}
	return old[:from] + section + old[to+len(end):]
}

func TestASectionIsReplacedAndTheRestStays(t *testing.T) {
	first := withSection("# Title\n\nwords\n", "herd", "one")
	text := withSection(first+"\nmore words\n", "herd", "two")
	want := "# Title\n\nwords\n\n<!-- measured: herd -->\n\ntwo\n\n<!-- end of herd -->\n\nmore words\n"
	if text != want {
		t.Errorf("got %q, want %q", text, want)
	}
}

// conditions says where and with what the figures of a section were measured.
func conditions(t *testing.T, packages ...string) string {
	t.Helper()
	var b strings.Builder
	fmt.Fprintf(&b, "Measured %s; commit %s; %s; %s.\n", time.Now().UTC().Format("2006-01-02 15:04 UTC"), commit(t), machine(t), runtime.Version())
	for _, name := range append([]string{"puppet-agent", "ruby3.1"}, packages...) {
		version, err := exec.CommandContext(t.Context(), "dpkg-query", "-W", "-f", "${Version}", name).Output()
		if err != nil {
			t.Fatalf("version of %s: %v", name, err)
		}
		fmt.Fprintf(&b, "%s %s; ", name, version)
	}
	load, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(&b, "load average at the end %s.\n", strings.Join(strings.Fields(string(load))[:3], ", "))
	return b.String()
}

// commit names the checkout, and says whether files other than the record differ from it.
func commit(t *testing.T) string {
	t.Helper()
	head, err := exec.CommandContext(t.Context(), "git", "rev-parse", "--short=10", "HEAD").Output()
	if err != nil {
		return "unknown (no checkout)"
	}
	text := strings.TrimSpace(string(head))
	changed, err := exec.CommandContext(t.Context(), "git", "status", "--porcelain", "--", "..", ":!RESULTS.md", ":!*.svg").Output()
	if err != nil {
		t.Fatal(err)
	}
	if strings.TrimSpace(string(changed)) != "" {
		text += " with changes in the working tree"
	}
	return text
}

func machine(t *testing.T) string {
	t.Helper()
	cpus, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		t.Fatal(err)
	}
	model := "unknown CPU"
	if found := regexp.MustCompile(`(?m)^model name\s*: (.*)$`).FindSubmatch(cpus); found != nil {
		model = string(found[1])
	}
	memory, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		t.Fatal(err)
	}
	var kb int
	if _, err := fmt.Sscanf(string(memory), "MemTotal: %d kB", &kb); err != nil {
		t.Fatal(err)
	}
	release, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%d CPUs of %s, %d GiB, Linux %s, everything on the loopback address",
		runtime.NumCPU(), model, (kb+1<<19)>>20, strings.TrimSpace(string(release)))
}

// verdict stands beside a target.
func verdict(met bool) string {
	if met {
		return "met"
	}
	return "**missed**"
}

// prefer gives this process and what it starts more weight than others on the machine, where the kernel groups
// processes for scheduling. Servers and generator get the same.
func prefer(t *testing.T) {
	t.Helper()
	const file = "/proc/self/autogroup"
	weight := os.Getenv("WEIGHT")
	if weight == "" {
		weight = "-10"
	}
	if err := os.WriteFile(file, []byte(weight), 0); err != nil && !os.IsNotExist(err) {
		t.Logf("the weight of the process group stays as it is: %v", err)
	}
}
