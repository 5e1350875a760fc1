package console

import (
	"maps"
	"net/http"
	"net/url"
	"slices"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/tiers"
)

// A tiersPage lists the tiers.
type tiersPage struct {
	Tiers []tiers.Tier
	Done  *event
}

func (v *visit) tiers() error {
	list, err := v.tierList()
	if err != nil {
		return err
	}
	p := &tiersPage{Tiers: list}
	if p.Done, err = v.done(); err != nil {
		return err
	}
	v.render(http.StatusOK, "tiers", "Tiers", p)
	return nil
}

// A tierPage shows one tier.
type tierPage struct {
	Tier   tiers.Tier
	Events part[list[event]]
	Done   *event
}

func (v *visit) tier() error {
	key := v.r.URL.Query().Get("key")
	t, err := read[tiers.Tier](v, tierPath(key), nil)
	if err != nil {
		return err
	}
	p := &tierPage{Tier: t, Events: readPart[list[event]](v, "/admin/v1/audit", url.Values{"kind": {tiers.KindTier}, "object": {key}, "limit": {"5"}})}
	if p.Done, err = v.done(); err != nil {
		return err
	}
	v.render(http.StatusOK, "tier", t.Name, p)
	return nil
}

// limitRow is a limit of a tier with its name, for templates.
type limitRow struct {
	Name string
	tiers.Limit
}

// WindowText writes the window of a limit.
func (l limitRow) WindowText() string { return windowText(l.Limit) }

// limitRows returns the limits of a tier, the shortest window first.
func limitRows(limits tiers.Limits) (rows []limitRow) {
	for _, name := range slices.Sorted(maps.Keys(limits)) {
		rows = append(rows, limitRow{name, limits[name]})
	}
	slices.SortStableFunc(rows, func(a, b limitRow) int { return int(lengthOf(a.Window).Seconds() - lengthOf(b.Window).Seconds()) })
	return rows
}

// windowText writes a window as the field of a form takes it.
func windowText(l tiers.Limit) string {
	if l.Algorithm == tierlimit.Concurrent {
		return "concurrent"
	}
	return l.Window.String()
}
