package load

import (
	"fmt"
	"math"
	"runtime"
	"testing"
	"testing/fstest"
	"time"
)

// tree is a machine of 16 CPUs with these files.
func tree(files map[string]string) fstest.MapFS {
	fs := fstest.MapFS{"sys/devices/system/cpu/online": {Data: []byte("0-15\n")}}
	for name, content := range files {
		fs[name] = &fstest.MapFile{Data: []byte(content)}
	}
	return fs
}

// What confines a process, as /proc and /sys show it. Trees follow the kernel's
// cgroup documentation.
func TestCapacityFromCgroupTrees(t *testing.T) {
	for name, c := range map[string]struct {
		files    map[string]string
		capacity float64 // 0: not confined, the host is measured
	}{
		"no cgroups at all": {map[string]string{"proc/stat": ""}, 0},
		"v2 without a quota": {map[string]string{
			"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cgroup.controllers": "cpu",
			"sys/fs/cgroup/cpu.max": "max 100000\n", "sys/fs/cgroup/cpu.stat": "usage_usec 1\n",
		}, 0},
		"v2 with half a CPU": {map[string]string{
			"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cgroup.controllers": "cpu",
			"sys/fs/cgroup/cpu.max": "50000 100000\n", "sys/fs/cgroup/cpu.stat": "usage_usec 1\n",
		}, 0.5},
		"v2 confined by a parent": {map[string]string{
			"proc/self/cgroup": "0::/kube/pod/app\n", "sys/fs/cgroup/cgroup.controllers": "cpu",
			"sys/fs/cgroup/kube/pod/app/cpu.max": "max 100000\n", "sys/fs/cgroup/kube/pod/app/cpu.stat": "usage_usec 1\n",
			"sys/fs/cgroup/kube/pod/cpu.max": "150000 100000\n", "sys/fs/cgroup/kube/cpu.max": "400000 100000\n",
		}, 1.5},
		"v2 with the host's path inside a container": {map[string]string{
			"proc/self/cgroup": "0::/docker/abc\n", "sys/fs/cgroup/cgroup.controllers": "cpu",
			"sys/fs/cgroup/cpu.max": "20000 10000\n", "sys/fs/cgroup/cpu.stat": "usage_usec 1\n",
		}, 2},
		"v2 with a cpuset": {map[string]string{
			"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cgroup.controllers": "cpu cpuset",
			"sys/fs/cgroup/cpu.max": "max 100000\n", "sys/fs/cgroup/cpuset.cpus.effective": "0-1,4-5,7\n", "sys/fs/cgroup/cpu.stat": "usage_usec 1\n",
		}, 5},
		"v1 with a quota": {map[string]string{
			"proc/self/cgroup":                                      "5:cpu,cpuacct:/docker/abc\n3:cpuset:/docker/abc\n",
			"sys/fs/cgroup/cpu,cpuacct/cpuacct.usage":               "1000",
			"sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us":            "-1",
			"sys/fs/cgroup/cpu,cpuacct/docker/abc/cpuacct.usage":    "1000",
			"sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_quota_us": "25000", "sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_period_us": "100000",
		}, 0.25},
		"v1 without a quota": {map[string]string{
			"proc/self/cgroup":                    "5:cpu,cpuacct:/\n",
			"sys/fs/cgroup/cpuacct/cpuacct.usage": "1000", "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
		}, 0},
		"a path outside of the namespace, beside a mount named alike": {map[string]string{
			"proc/self/cgroup":                   "3:cpuset:/../cpuset\n2:cpu,cpuacct:/../cpuset\n1:cpuacct:/../cpuset\n",
			"sys/fs/cgroup/cpu/x":                "",
			"sys/fs/cgroup/cpuset/y":             "",
			"sys/fs/cgroup/cpuacct/z":            "",
			"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "50000\n", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
		}, 0.5},
		"garbage": {map[string]string{
			"proc/self/cgroup": "0::/\n\nx\n", "sys/fs/cgroup/cgroup.controllers": "cpu",
			"sys/fs/cgroup/cpu.max": "lots\n", "sys/fs/cgroup/cpuset.cpus.effective": "0-x,,\n",
		}, 0},
	} {
		got := 0.0
		if found := findCgroup(tree(c.files)); found != nil {
			got = found.capacity
		}
		if want := min(c.capacity, float64(runtime.GOMAXPROCS(0))); got != want {
			t.Errorf("%s: %v CPUs, want %v", name, got, want)
		}
	}
}

func TestUtilisationIsOfTheQuotaAndNotOfTheHost(t *testing.T) {
	fs := tree(map[string]string{
		"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cgroup.controllers": "cpu",
		"sys/fs/cgroup/cpu.max": "50000 100000\n",
	})
	usage := func(usec int) {
		fs["sys/fs/cgroup/cpu.stat"] = &fstest.MapFile{Data: fmt.Appendf(nil, "usage_usec %d\nuser_usec 0\n", usec)}
	}
	m := cpuMeter(fs)
	if m.Source() != "cgroup" {
		t.Fatalf("measures the %s", m.Source())
	}
	now := time.Date(2026, 3, 10, 12, 0, 0, 0, time.UTC)
	for _, step := range []struct {
		after time.Duration
		usec  int
		want  float64
		ok    bool
	}{
		{0, 1_000_000, 0, false},                                // since the start: says nothing of now
		{500 * time.Millisecond, 1_000_000, 0, true},            // idle is a reading
		{500 * time.Millisecond, 1_125_000, 0.5, true},          // a quarter CPU of half a CPU
		{500 * time.Millisecond, 1_375_000, 1, true},            // the whole quota
		{500 * time.Millisecond, 1_875_000, 1, true},            // a burst beyond it
		{500 * time.Millisecond, 1_000_000, 0, false},           // backwards
		{10 * time.Millisecond, 1_001_000, 0, false},            // too soon
		{10 * time.Second, 1_002_000, 0, false},                 // too late
		{500 * time.Millisecond, 1_002_000 + 50_000, 0.2, true}, // and on
	} {
		now = now.Add(step.after)
		usage(step.usec)
		u, ok, err := m.Read(now)
		if err != nil || ok != step.ok || ok && math.Abs(u-step.want) > 1e-6 {
			t.Errorf("%v later at %d us: %v, %v, %v; want %v, %v", step.after, step.usec, u, ok, err, step.want, step.ok)
		}
	}
}

// The quota of a container can change while the container runs. The sampler notices the
// change within ten seconds.
func TestAResizedQuotaIsNoticed(t *testing.T) {
	fs := tree(map[string]string{
		"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cgroup.controllers": "cpu",
		"sys/fs/cgroup/cpu.max": "50000 100000\n",
	})
	m := cpuMeter(fs)
	now, usec := time.Date(2026, 3, 10, 12, 0, 0, 0, time.UTC), 0
	read := func() float64 { // half a second in which a quarter of a CPU is used
		now, usec = now.Add(500*time.Millisecond), usec+125_000
		fs["sys/fs/cgroup/cpu.stat"] = &fstest.MapFile{Data: fmt.Appendf(nil, "usage_usec %d\n", usec)}
		u, _, err := m.Read(now)
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	read()
	if u := read(); math.Abs(u-0.5) > 1e-6 {
		t.Fatalf("of half a CPU: %v", u)
	}
	fs["sys/fs/cgroup/cpu.max"] = &fstest.MapFile{Data: []byte("25000 100000\n")}
	for range 22 {
		read()
	}
	if u := read(); math.Abs(u-1) > 1e-6 {
		t.Errorf("of a quarter of a CPU: %v", u)
	}
}

func TestTheHostIsMeasured(t *testing.T) {
	m := &host{}
	now := time.Now()
	if _, ok, err := m.Read(now); ok || err != nil {
		t.Fatalf("the first reading: %v, %v; it is since the start and says nothing", ok, err)
	}
	done := time.After(300 * time.Millisecond)
	for busy := true; busy; { // so that there is something to see
		select {
		case <-done:
			busy = false
		default:
			runtime.Gosched()
		}
	}
	u, ok, err := m.Read(time.Now())
	if err != nil || !ok || u <= 0 || u > 1 {
		t.Fatalf("a busy core of %d reads %v, %v, %v", runtime.NumCPU(), u, ok, err)
	}
}
