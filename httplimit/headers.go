package httplimit

import (
	"net/http"
	"strconv"
	"time"

	"github.com/tierlimit/tierlimit"
)

// LegacyHeaders says whether X-RateLimit-Limit, -Remaining and -Reset are sent
// too, and what Reset means.
type LegacyHeaders string

// The legacy headers.
const (
	NoLegacy    LegacyHeaders = ""
	LegacyEpoch LegacyHeaders = "epoch" // Reset in seconds since the epoch, as GitHub has it
	LegacyDelta LegacyHeaders = "delta" // Reset in seconds from now
)

func (l LegacyHeaders) valid() bool { return l == NoLegacy || l == LegacyEpoch || l == LegacyDelta }

// SetHeaders writes the RateLimit and RateLimit-Policy fields of
// draft-ietf-httpapi-ratelimit-headers-11, Retry-After (RFC 9110, whole seconds,
// never too early) for a denial that waiting can lift, and the legacy fields.
//
// The quota is the one in force, scaled by load. Unlimited windows and months,
// whose length varies, have no number to send: the first are left out, as are
// limits in shadow mode, which hold nobody; the second go without w.
func SetHeaders(h http.Header, d *tierlimit.Decision, legacy LegacyHeaders) {
	var policy, limit []byte
	for i := range d.Windows {
		w := &d.Windows[i]
		if w.EffectiveMax == tierlimit.Unlimited || w.Shadow {
			continue
		}
		policy, limit = appendPolicy(policy, w), appendLimit(limit, w)
		if legacy != NoLegacy && w.Limit == d.Limit {
			setLegacy(h, w, legacy)
		}
	}
	if len(limit) > 0 {
		h.Set("Ratelimit-Policy", string(policy))
		h.Set("Ratelimit", string(limit))
	}
	if !d.Allowed && d.RetryAfter > 0 {
		h.Set("Retry-After", strconv.FormatInt(ceilSeconds(d.RetryAfter), 10))
	}
}

// Limit names need no escapes in a structured field's string: see
// tierlimit.ValidName.

func appendPolicy(b []byte, w *tierlimit.WindowState) []byte {
	b = appendName(b, w.Limit)
	b = strconv.AppendInt(append(b, ";q="...), w.EffectiveMax, 10)
	if seconds := windowSeconds(w.Window); seconds > 0 {
		b = strconv.AppendInt(append(b, ";w="...), seconds, 10)
	}
	return b
}

func appendLimit(b []byte, w *tierlimit.WindowState) []byte {
	b = appendName(b, w.Limit)
	b = strconv.AppendInt(append(b, ";r="...), w.Remaining, 10)
	if w.Reset > 0 {
		b = strconv.AppendInt(append(b, ";t="...), ceilSeconds(w.Reset), 10)
	}
	return b
}

func appendName(b []byte, name string) []byte {
	if len(b) > 0 {
		b = append(b, ", "...)
	}
	return append(append(append(b, '"'), name...), '"')
}

func setLegacy(h http.Header, w *tierlimit.WindowState, legacy LegacyHeaders) {
	reset := ceilSeconds(w.Reset)
	if legacy == LegacyEpoch {
		reset += time.Now().Unix()
	}
	h.Set("X-Ratelimit-Limit", strconv.FormatInt(w.EffectiveMax, 10))
	h.Set("X-Ratelimit-Remaining", strconv.FormatInt(w.Remaining, 10))
	h.Set("X-Ratelimit-Reset", strconv.FormatInt(reset, 10))
}

func windowSeconds(w tierlimit.Window) int64 {
	const day = 24 * time.Hour
	switch w.Period {
	case tierlimit.Day:
		return int64(day / time.Second)
	case tierlimit.Week:
		return int64(7 * day / time.Second)
	case tierlimit.Month:
		return 0
	default:
		return ceilSeconds(w.Length)
	}
}

func ceilSeconds(d time.Duration) int64 {
	whole := d / time.Second
	if d%time.Second > 0 {
		whole++
	}
	return int64(whole)
}
