package pgtiers

import (
	"time"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/tiers"
)

// An overrideRow is an element of overridesColumn.
type overrideRow struct {
	LimitName string `json:"limit_name"`
	Max       *int64 `json:"max"`
	StartsAt  int64  `json:"starts_at"`
	ExpiresAt int64  `json:"expires_at"`
	Reason    string `json:"reason"`
	Version   int64  `json:"version"`
}

// overridesColumn selects the overrides of the subject s as JSON. Instants are milliseconds
// since the epoch, because text would depend on the session's time zone.
const overridesColumn = `(
	SELECT json_agg(json_build_object('limit_name', o.limit_name, 'max', o.max, 'reason', o.reason, 'version', o.version,
		'starts_at', (extract(epoch FROM o.starts_at) * 1000)::bigint, 'expires_at', (extract(epoch FROM o.expires_at) * 1000)::bigint))
	FROM tierlimit.overrides o WHERE o.subject = s.id) AS overrides`

func (r *overrideRow) override() tiers.Override {
	o := tiers.Override{
		Limit: r.LimitName, Max: tierlimit.Unlimited, StartsAt: time.UnixMilli(r.StartsAt), ExpiresAt: time.UnixMilli(r.ExpiresAt), Reason: r.Reason, Version: r.Version,
	}
	if r.Max != nil {
		o.Max = *r.Max
	}
	o.Normalize()
	return o
}
