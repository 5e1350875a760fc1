package load

import (
	"fmt"
	"time"

	"github.com/shirou/gopsutil/v3/cpu"
)

// A Meter reads CPU utilisation, from 0 to 1, since its last reading. It is
// called by one goroutine.
type Meter interface {
	// Read returns ok false when there is nothing to tell yet, or the reading
	// makes no sense. 0 is a valid reading.
	Read(now time.Time) (utilisation float64, ok bool, err error)
	// Source names what is measured: "cgroup", "host", "fixed".
	Source() string
	// Capacity returns the number of CPUs that a utilisation of 1 means, as of the last Read.
	Capacity() float64
}

// Fixed is a meter that always reads u, for tests and demonstrations.
func Fixed(u float64) Meter { return fixed(u) }

type fixed float64

func (f fixed) Read(time.Time) (float64, bool, error) { return float64(f), true, nil }
func (fixed) Source() string                          { return "fixed" }
func (fixed) Capacity() float64                       { return 1 }

// host measures all CPUs of the machine. It keeps its own last reading:
// gopsutil's cpu.Percent compares with one that all its callers share.
type host struct {
	cpus float64
	last rate
}

func (h *host) Source() string { return "host" }

func (h *host) Capacity() float64 { return h.cpus }

func (h *host) Read(now time.Time) (float64, bool, error) {
	times, err := cpu.Times(false)
	if err != nil {
		return 0, false, fmt.Errorf("read CPU times: %w", err)
	}
	if len(times) == 0 {
		return 0, false, nil
	}
	t := times[0]
	idle := t.Idle + t.Iowait
	// Guest time is part of user time already.
	busy := t.User + t.Nice + t.System + t.Irq + t.Softirq + t.Steal
	u, ok := h.last.next(now, busy, busy+idle)
	return u, ok, nil
}

// A rate turns two counters into the share one grew by of the other.
type rate struct {
	at         time.Time
	used, room float64
}

// Readings closer together are noise, and further apart say nothing of now.
const (
	minGap = 250 * time.Millisecond
	maxGap = 2 * time.Second
)

func (r *rate) next(now time.Time, used, room float64) (share float64, ok bool) {
	last := *r
	*r = rate{at: now, used: used, room: room}
	gap := now.Sub(last.at)
	if last.at.IsZero() || gap < minGap || gap > maxGap || used < last.used || room <= last.room {
		return 0, false
	}
	return min((used-last.used)/(room-last.room), 1), true
}
