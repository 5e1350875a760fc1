package load

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"math"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/tiers"
)

// A Mode says what is done with what the CPU tells.
type Mode string

// The modes.
const (
	Off     Mode = "off"     // nothing is scaled
	Observe Mode = "observe" // multipliers are computed and shown, and only pins applied
	Enforce Mode = "enforce" // multipliers are applied
)

// Config is what a Controller is made of.
type Config struct {
	Tiers func() []tiers.Tier // required: the tiers in force, asked at every sample
	Meter Meter               // default CPU()
	Mode  Mode                // default Enforce

	// Control says what an administrator wants, in place of Mode; asked at every
	// sample. Default: nothing.
	Control func() tiers.LoadControl
	Logger  *slog.Logger // told when the meter fails and recovers; default slog.Default
}

// sampleEvery is short enough to follow a burst and long enough that
// /proc/stat, which counts in hundredths of a second, is not noise.
const sampleEvery = 500 * time.Millisecond

// A Controller samples the CPU and holds each tier's multiplier. It is safe for
// concurrent use.
type Controller struct {
	cfg     Config
	current atomic.Pointer[Status]
	stop    context.CancelFunc
	running sync.WaitGroup
}

var _ tierlimit.Load = (*Controller)(nil)

// Status is how things stand.
type Status struct {
	Mode     Mode                  `json:"mode"`
	Source   string                `json:"source"`   // what is measured: cgroup, host or fixed
	CPU      float64               `json:"cpu"`      // the last sample, 0 to 1
	Smoothed float64               `json:"smoothed"` // what the curves follow
	AgeMS    int64                 `json:"age_ms"`   // of the last sample; -1 before the first
	Tiers    map[string]TierStatus `json:"tiers"`

	sampledAt time.Time
}

// TierStatus is one tier's multiplier.
type TierStatus struct {
	Multiplier float64 `json:"multiplier"`       // in force
	Computed   float64 `json:"computed"`         // what the CPU makes it, or would under enforce
	Pinned     bool    `json:"pinned,omitempty"` // in place of what the CPU makes it
}

// New starts a controller; Close stops it.
func New(cfg Config) (*Controller, error) {
	if cfg.Tiers == nil {
		return nil, &tierlimit.FieldError{Field: "Tiers", Value: "nil", Want: "a function that returns the tiers in force"}
	}
	if cfg.Mode == "" {
		cfg.Mode = Enforce
	}
	if cfg.Mode != Off && cfg.Mode != Observe && cfg.Mode != Enforce {
		return nil, &tierlimit.FieldError{Field: "Mode", Value: string(cfg.Mode), Want: "off, observe or enforce"}
	}
	if f, ok := cfg.Meter.(fixed); ok && (math.IsNaN(float64(f)) || f < 0 || f > 1) {
		return nil, &tierlimit.FieldError{Field: "Meter", Value: strconv.FormatFloat(float64(f), 'g', -1, 64), Want: "fixed from 0 to 1"}
	}
	if cfg.Meter == nil {
		cfg.Meter = CPU()
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.Control == nil {
		cfg.Control = func() tiers.LoadControl { return tiers.LoadControl{} }
	}
	c := &Controller{cfg: cfg}
	ctx, stop := context.WithCancel(context.Background())
	c.stop = stop
	g := newGovernor()
	_ = c.sample(g, time.Now()) // an error is there at the next sample too, and told then
	c.running.Go(func() { c.run(ctx, g) })
	return c, nil
}

// Close stops sampling and returns when that has stopped. The multipliers stay
// as they are.
func (c *Controller) Close() {
	c.stop()
	c.running.Wait()
}

// Multiplier implements tierlimit.Load. A tier that came up since the last
// sample is not scaled yet.
func (c *Controller) Multiplier(tier string) float64 {
	if t, ok := c.current.Load().Tiers[tier]; ok {
		return t.Multiplier
	}
	return 1
}

// Status returns how things stand now.
func (c *Controller) Status() Status {
	s := *c.current.Load()
	s.AgeMS = -1
	if !s.sampledAt.IsZero() {
		s.AgeMS = time.Since(s.sampledAt).Milliseconds()
	}
	return s
}

func (c *Controller) run(ctx context.Context, g *governor) {
	tick := time.NewTicker(sampleEvery)
	defer tick.Stop()
	var failing error
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		err := c.sample(g, time.Now())
		switch {
		case err != nil && failing == nil:
			c.cfg.Logger.Warn("load: the CPU cannot be read, limits return to full", "error", err)
		case err == nil && failing != nil:
			c.cfg.Logger.Info("load: the CPU can be read again")
		}
		failing = err
	}
}

// sample reads the meter and puts the multipliers that follow in force.
func (c *Controller) sample(g *governor, now time.Time) error {
	u, ok, err := c.cfg.Meter.Read(now)
	if err != nil {
		err = fmt.Errorf("sample %s: %w", c.cfg.Meter.Source(), err)
	} else if ok {
		g.observe(u, now)
	}
	list, control := c.cfg.Tiers(), c.cfg.Control()
	computed := g.multipliers(list, now)
	mode := cmp.Or(Mode(control.Mode), c.cfg.Mode)
	s := &Status{
		Mode: mode, Source: c.cfg.Meter.Source(),
		CPU: round(g.last), Smoothed: round(g.smoothed), sampledAt: g.sampledAt,
		Tiers: make(map[string]TierStatus, len(list)),
	}
	for tier, m := range computed {
		t := TierStatus{Multiplier: 1, Computed: m}
		pin, ok := control.Pins[tier]
		t.Pinned = ok && pin.Holds(now) && mode != Off
		switch {
		case t.Pinned:
			t.Multiplier = pin.Multiplier
		case mode == Enforce:
			t.Multiplier = m
		}
		s.Tiers[tier] = t
	}
	c.current.Store(s)
	return err
}

// round keeps JSON readable; nobody measures a CPU to a hundredth of a percent.
func round(u float64) float64 { return math.Round(u*1e4) / 1e4 }
