package load

import (
	"cmp"
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"slices"
	"strings"
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
	Tiers   func() []tiers.Tier // required: the tiers in force, asked at every step
	Meter   Meter               // default CPU()
	Mode    Mode                // default Enforce
	Sources Sources             // the readings that count; default AllSources

	// Board is what the replicas of a fleet agree by; default nil: this process is alone.
	Board Board
	// Name tells this replica's own reading apart. Default: of the host's name, and unique.
	Name string

	// Control says what an administrator wants, in place of Mode; asked at every
	// step. Default: nothing.
	Control func() tiers.LoadControl
	Logger  *slog.Logger // told when the meter or the Board fails and recovers; default slog.Default

	now func() time.Time // default time.Now
}

// sampleEvery is short enough to follow a burst and long enough that
// /proc/stat, which counts in hundredths of a second, is not noise.
const sampleEvery = 500 * time.Millisecond

// A Controller measures the CPU, takes reports of others, and holds each tier's multiplier: on a
// Board that of the fleet. It is safe for concurrent use.
type Controller struct {
	cfg     Config
	inbox   *inbox
	fleet   fleet // used by run
	sampled time.Time
	meter   failure
	board   failure
	current atomic.Pointer[view]
	stop    context.CancelFunc
	running sync.WaitGroup
}

var _ tierlimit.Load = (*Controller)(nil)

// Status is how things stand.
type Status struct {
	Mode     Mode    `json:"mode"`
	CPU      float64 `json:"cpu"`      // the load: the mean of the readings that count, 0 to 1
	Smoothed float64 `json:"smoothed"` // what the curves follow
	AgeMS    int64   `json:"age_ms"`   // of the youngest reading that counts; -1 if there is none
	// Agreed is whether all replicas have the multipliers of this status, apart from pins and modes
	// that an administrator changed within the last second. False: this replica made them alone.
	Agreed   bool                  `json:"agreed"`
	Step     int64                 `json:"step"` // the number of the step in force
	Readings []ReadingStatus       `json:"readings"`
	Tiers    map[string]TierStatus `json:"tiers"`
}

// ReadingStatus is one reading that the replica knows.
type ReadingStatus struct {
	Reading
	Kind   string `json:"kind"` // KindReport, or what a replica measured: cgroup, host or fixed
	AgeMS  int64  `json:"age_ms"`
	Counts bool   `json:"counts"` // it is of what is protected, and at most five seconds old
}

// TierStatus is one tier's multiplier.
type TierStatus struct {
	Multiplier float64 `json:"multiplier"`       // in force
	Computed   float64 `json:"computed"`         // what the load makes it, or would under enforce
	Pinned     bool    `json:"pinned,omitempty"` // in place of what the load makes it
}

// New starts a controller; Close stops it. On a Board that answers it begins with the multipliers
// that the fleet has agreed on; New waits for that a quarter of a second at most.
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
		return nil, &tierlimit.FieldError{Field: "Meter", Value: number(float64(f)), Want: "fixed from 0 to 1"}
	}
	if cfg.Name == "" {
		cfg.Name = hostName() + "-" + strings.ToLower(rand.Text()[:6])
	}
	if !tierlimit.ValidName(cfg.Name) {
		return nil, &tierlimit.FieldError{Field: "Name", Value: cfg.Name, Want: tierlimit.NameRule}
	}
	if !cfg.Sources.Own && len(cfg.Sources.Names) == 0 {
		cfg.Sources = AllSources
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
	if cfg.now == nil {
		cfg.now = time.Now
	}
	c := &Controller{
		cfg: cfg, inbox: newInbox(cfg.Sources),
		fleet: fleet{board: cfg.Board, name: ownPrefix + cfg.Name, now: cfg.now},
		meter: failure{log: cfg.Logger, lost: "load: the CPU cannot be read", found: "load: the CPU can be read again"},
		board: failure{
			log: cfg.Logger, lost: "load: the replicas cannot agree: this one goes on with what it knows", found: "load: the replicas agree again",
		},
	}
	ctx, stop := context.WithCancel(context.Background())
	c.stop = stop
	c.tick(ctx)
	c.running.Go(func() { c.run(ctx) })
	return c, nil
}

// Close stops the controller and returns when that has stopped. The multipliers stay
// as they are.
func (c *Controller) Close() {
	c.stop()
	c.running.Wait()
}

// Report takes a reading of a protected service. It replaces the last one of the same source, and
// counts for at most five seconds. A *tierlimit.FieldError says what is wrong with r, or that too
// many sources report. Report does not wait for the Board.
func (c *Controller) Report(r Reading) error { return c.inbox.report(r, c.cfg.now()) }

// Multiplier implements tierlimit.Load. A tier that came up since the last
// step is not scaled yet.
func (c *Controller) Multiplier(tier string) float64 {
	if t, ok := c.current.Load().at(c.cfg.now)[tier]; ok {
		return t.Multiplier
	}
	return 1
}

// Status returns how things stand now.
func (c *Controller) Status() Status {
	v, now := c.current.Load(), c.cfg.now()
	readings := youngest(c.inbox.all(now), v.others)
	s := v.status
	s.Tiers, s.AgeMS, s.Readings = v.at(func() time.Time { return now }), -1, make([]ReadingStatus, 0, len(readings))
	if v.next != nil && now.Before(v.from) {
		s.Step--
	}
	for _, source := range slices.Sorted(maps.Keys(readings)) {
		e := readings[source]
		if now.Sub(e.at) > forgetAfter {
			continue // of a Board that does not answer any more
		}
		r := ReadingStatus{Reading: e.Reading, Kind: e.kind, AgeMS: now.Sub(e.at).Milliseconds(), Counts: e.counts(now)}
		r.CPU = round(r.CPU)
		if r.Counts && (s.AgeMS < 0 || r.AgeMS < s.AgeMS) {
			s.AgeMS = r.AgeMS
		}
		s.Readings = append(s.Readings, r)
	}
	return s
}

// OwnAge returns the age of the last sample of this replica's own CPU; ok is false if there is
// none of the last ten seconds.
func (c *Controller) OwnAge() (age time.Duration, ok bool) {
	now := c.cfg.now()
	e, ok := c.inbox.all(now)[c.fleet.name]
	return now.Sub(e.at), ok
}

func (c *Controller) run(ctx context.Context) {
	began := c.cfg.now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(c.fleet.wait(began, c.board.failing)):
		}
		began = c.cfg.now()
		c.tick(ctx)
	}
}

// tick measures the CPU, makes or takes a step if one is due, and puts what follows in force.
func (c *Controller) tick(ctx context.Context) {
	if now := c.cfg.now(); now.Sub(c.sampled) >= sampleEvery-lookEvery/2 {
		c.sampled = now
		c.meter.saw(c.sample(now))
	}
	list := c.cfg.Tiers()
	own := c.inbox.all(c.cfg.now())
	if c.cfg.Board != nil {
		err := c.share(ctx, own, list)
		if ctx.Err() == nil {
			c.board.saw(err)
		}
	}
	c.fleet.alone(own, list)
	c.current.Store(c.view())
}

// share publishes the readings of this replica if there are new ones, and looks at the Board.
func (c *Controller) share(ctx context.Context, own map[string]entry, list []tiers.Tier) error {
	ctx, cancel := context.WithTimeout(ctx, lookEvery)
	defer cancel()
	if c.inbox.takeNews() {
		if err := c.fleet.publish(ctx, own); err != nil {
			return err
		}
	}
	return c.fleet.look(ctx, own, list)
}

// sample reads the meter.
func (c *Controller) sample(now time.Time) error {
	m := c.cfg.Meter
	u, ok, err := m.Read(now)
	if err != nil {
		return fmt.Errorf("sample %s: %w", m.Source(), err)
	}
	own := entry{
		Reading: Reading{Source: c.fleet.name, CPU: min(u, 1), Capacity: min(m.Capacity(), MaxCapacity)},
		kind:    m.Source(), protected: c.cfg.Sources.Own, at: now,
	}
	if ok && own.valid() {
		c.inbox.measured(own)
	}
	return nil
}

// A view is what is in force, and what will be from an instant on.
type view struct {
	status Status           // without readings, ages and tiers
	others map[string]entry // readings of the Board

	tiers, next map[string]TierStatus // next is nil if nothing will change
	from        time.Time             // of next
}

// at returns the multipliers in force. It asks for the time only if they are about to change.
func (v *view) at(now func() time.Time) map[string]TierStatus {
	if v.next != nil && !now().Before(v.from) {
		return v.next
	}
	return v.tiers
}

// view returns what follows from the agreed state, the mode and the pins.
func (c *Controller) view() *view {
	s, control, now := c.fleet.agreed, c.cfg.Control(), c.cfg.now()
	mode := cmp.Or(Mode(control.Mode), c.cfg.Mode)
	tierStatus := func(tier string, computed float64) TierStatus {
		t := TierStatus{Multiplier: 1, Computed: computed}
		pin, ok := control.Pins[tier]
		t.Pinned = ok && pin.Holds(now) && mode != Off
		switch {
		case t.Pinned:
			t.Multiplier = pin.Multiplier
		case mode == Enforce:
			t.Multiplier = computed
		}
		return t
	}
	v := &view{
		status: Status{Mode: mode, CPU: round(s.CPU), Smoothed: round(s.Smoothed), Agreed: c.fleet.text != "", Step: s.Step},
		others: maps.Clone(c.fleet.others),
		tiers:  make(map[string]TierStatus, len(s.Tiers)),
		from:   c.fleet.inForceAt(),
	}
	before := make(map[string]TierStatus, len(s.Tiers))
	for tier, t := range s.Tiers {
		v.tiers[tier], before[tier] = tierStatus(tier, t.Multiplier), tierStatus(tier, t.Before)
	}
	if now.Before(v.from) {
		v.tiers, v.next = before, v.tiers
	}
	return v
}

// round keeps JSON readable; nobody measures a CPU to a hundredth of a percent.
func round(u float64) float64 { return math.Round(u*1e4) / 1e4 }

// A failure logs when something begins to fail, and when it recovers.
type failure struct {
	log         *slog.Logger
	lost, found string
	failing     bool
}

func (f *failure) saw(err error) {
	switch {
	case err != nil && !f.failing:
		f.log.Warn(f.lost, "error", err)
	case err == nil && f.failing:
		f.log.Info(f.found)
	}
	f.failing = err != nil
}
