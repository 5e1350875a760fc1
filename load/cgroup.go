package load

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"path"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// A cgroup measures the CPU a container used against what it may use. The
// host's own numbers know nothing of a container's quota.
//
// Files: the kernel's Documentation/admin-guide/cgroup-v2.rst, and
// cgroup-v1/cpuacct.rst and scheduler/sched-bwc.rst.
type cgroup struct {
	root       fs.FS // of the file system; a directory tree in tests
	v2         bool
	usageFile  string
	quotaDirs  []string // from the cgroup up to the root: each may hold a quota
	cpusetFile string

	capacity   float64 // CPUs this container may use
	capacityAt time.Time
	room       float64 // capacity integrated over time
	roomAt     time.Time
	last       rate
}

// quotas change when a container is resized.
const capacityAge = 10 * time.Second

// findCgroup returns nil when nothing confines the process to less than the
// machine's CPUs.
func findCgroup(root fs.FS) *cgroup {
	c := locate(root)
	if c == nil {
		return nil
	}
	capacity, confined := c.readCapacity()
	if !confined {
		return nil
	}
	c.capacity = capacity
	return c
}

func locate(root fs.FS) *cgroup {
	data, err := fs.ReadFile(root, "proc/self/cgroup")
	if err != nil {
		return nil
	}
	controllers := make(map[string]string) // controller -> path; "" is v2
	for line := range bytes.Lines(data) {
		parts := strings.SplitN(strings.TrimSpace(string(line)), ":", 3)
		if len(parts) == 3 {
			for name := range strings.SplitSeq(parts[1], ",") {
				controllers[name] = parts[2]
			}
		}
	}
	if own, ok := controllers[""]; ok && exists(root, "sys/fs/cgroup/cgroup.controllers") {
		dirs := upwards(root, "sys/fs/cgroup", own)
		return &cgroup{
			root: root, v2: true, quotaDirs: dirs,
			usageFile: dirs[0] + "/cpu.stat", cpusetFile: dirs[0] + "/cpuset.cpus.effective",
		}
	}
	if own, ok := controllers["cpuacct"]; ok {
		return &cgroup{
			root:       root,
			usageFile:  upwards(root, v1Mount(root, "cpuacct"), own)[0] + "/cpuacct.usage",
			quotaDirs:  upwards(root, v1Mount(root, "cpu"), controllers["cpu"]),
			cpusetFile: upwards(root, v1Mount(root, "cpuset"), controllers["cpuset"])[0] + "/cpuset.effective_cpus",
		}
	}
	return nil
}

func v1Mount(root fs.FS, controller string) string {
	for _, name := range []string{controller, "cpu,cpuacct", "cpuacct,cpu"} {
		if strings.Contains(name, controller) && exists(root, "sys/fs/cgroup/"+name) {
			return "sys/fs/cgroup/" + name
		}
	}
	return "sys/fs/cgroup/" + controller
}

// upwards returns a cgroup's directory and its ancestors'. Inside a container
// the path of /proc/self/cgroup may be the host's: then the mount is its root.
func upwards(root fs.FS, mount, own string) []string {
	dir := path.Join(mount, own)
	inside := dir == mount || strings.HasPrefix(dir, mount+"/") // not so for "/../x", which is outside of the namespace
	if !inside || !exists(root, dir) {
		return []string{mount}
	}
	dirs := []string{dir}
	for dir != mount {
		dir = path.Dir(dir)
		dirs = append(dirs, dir)
	}
	return dirs
}

func (c *cgroup) Source() string { return "cgroup" }

func (c *cgroup) Capacity() float64 { return c.capacity }

func (c *cgroup) Read(now time.Time) (float64, bool, error) {
	if now.Sub(c.capacityAt) >= capacityAge {
		c.capacity, _ = c.readCapacity()
		c.capacityAt = now
	}
	used, err := c.readUsage()
	if err != nil {
		return 0, false, err
	}
	if !c.roomAt.IsZero() {
		c.room += now.Sub(c.roomAt).Seconds() * c.capacity
	}
	c.roomAt = now
	u, ok := c.last.next(now, used, c.room)
	return u, ok, nil
}

// readUsage returns the CPU seconds used since the cgroup began.
func (c *cgroup) readUsage() (float64, error) {
	data, err := fs.ReadFile(c.root, c.usageFile)
	if err != nil {
		return 0, fmt.Errorf("read CPU usage: %w", err)
	}
	if !c.v2 {
		ns, err := strconv.ParseFloat(strings.TrimSpace(string(data)), 64)
		return ns / 1e9, err
	}
	lines := bufio.NewScanner(bytes.NewReader(data))
	for lines.Scan() {
		if usec, ok := strings.CutPrefix(lines.Text(), "usage_usec "); ok {
			n, err := strconv.ParseFloat(usec, 64)
			return n / 1e6, err
		}
	}
	return 0, errors.New("read CPU usage: no usage_usec in " + c.usageFile)
}

// readCapacity returns how many CPUs the process can keep busy: the least of
// its quota and its ancestors', its cpuset, and GOMAXPROCS. confined is whether
// the cgroup leaves it less than the machine has.
func (c *cgroup) readCapacity() (capacity float64, confined bool) {
	cpus := machineCPUs(c.root)
	capacity = cpus
	for _, dir := range c.quotaDirs {
		capacity = min(capacity, c.readQuota(dir))
	}
	if data, err := fs.ReadFile(c.root, c.cpusetFile); err == nil {
		if n := countCPUs(strings.TrimSpace(string(data))); n > 0 {
			capacity = min(capacity, float64(n))
		}
	}
	confined = capacity < cpus
	return min(capacity, float64(runtime.GOMAXPROCS(0))), confined
}

func (c *cgroup) readQuota(dir string) float64 {
	unlimited := math.Inf(1)
	var quota, period string
	if c.v2 {
		quota, period, _ = strings.Cut(c.readWord(dir+"/cpu.max"), " ")
	} else {
		quota, period = c.readWord(dir+"/cpu.cfs_quota_us"), c.readWord(dir+"/cpu.cfs_period_us")
	}
	q, errQ := strconv.ParseFloat(quota, 64) // "max" in v2 and -1 in v1: no quota
	p, errP := strconv.ParseFloat(period, 64)
	if errQ != nil || errP != nil || q <= 0 || p <= 0 {
		return unlimited
	}
	return q / p
}

func (c *cgroup) readWord(file string) string {
	data, err := fs.ReadFile(c.root, file)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}

// countCPUs reads a list such as "0-1,4-5"; 0 for one it cannot read.
func countCPUs(list string) int {
	n := 0
	for part := range strings.SplitSeq(list, ",") {
		first, last, isRange := strings.Cut(part, "-")
		if !isRange {
			last = first
		}
		from, errFrom := strconv.Atoi(first)
		to, errTo := strconv.Atoi(last)
		if errFrom != nil || errTo != nil || to < from {
			return 0
		}
		n += to - from + 1
	}
	return n
}

func exists(root fs.FS, name string) bool {
	_, err := fs.Stat(root, name)
	return err == nil
}
