package load

import (
	"io/fs"
	"os"
	"runtime"
	"strings"
)

// CPU returns the meter for where this process runs: its cgroup's quota or
// cpuset where that confines it, all the machine's CPUs where nothing does.
func CPU() Meter { return cpuMeter(os.DirFS("/")) }

func cpuMeter(root fs.FS) Meter {
	if c := findCgroup(root); c != nil {
		return c
	}
	return &host{cpus: machineCPUs(root)}
}

// machineCPUs counts the CPUs that are on. runtime.NumCPU will not do: it counts
// those this process may run on, and so already heeds a cpuset.
func machineCPUs(root fs.FS) float64 {
	if data, err := fs.ReadFile(root, "sys/devices/system/cpu/online"); err == nil {
		if n := countCPUs(strings.TrimSpace(string(data))); n > 0 {
			return float64(n)
		}
	}
	return float64(runtime.NumCPU())
}
