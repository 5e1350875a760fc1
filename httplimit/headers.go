package httplimit

import (
	"net/http"
	"strconv"
	"strings"
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

	// In the place of the standard headers, for clients that read an older draft of RateLimit.
	LegacyEpochOnly LegacyHeaders = "epoch-only"
	LegacyDeltaOnly LegacyHeaders = "delta-only"
)

// Valid reports whether l is one of the constants.
func (l LegacyHeaders) Valid() bool {
	switch l {
	case NoLegacy, LegacyEpoch, LegacyDelta, LegacyEpochOnly, LegacyDeltaOnly:
		return true
	}
	return false
}

// alone reports whether the standard headers are left out.
func (l LegacyHeaders) alone() bool { return l == LegacyEpochOnly || l == LegacyDeltaOnly }

// SetHeaders writes the RateLimit and RateLimit-Policy fields of
// draft-ietf-httpapi-ratelimit-headers-11, Retry-After (RFC 9110, whole seconds,
// never too early) for a denial that waiting can lift, and the legacy fields.
//
// The quota is the one in force, scaled by load. Unlimited windows and limits in shadow
// mode, which deny nobody, are left out. A month is sent without w, because its length
// varies.
//
// Of a denial that the tier shows plainly (tierlimit.DenialsPlain), Retry-After alone is written.
//
// If h has the fields of another limiter, such as a middleware around this one, the tightest
// stays: that with the smallest r.
func SetHeaders(h http.Header, d *tierlimit.Decision, legacy LegacyHeaders) {
	if !d.Allowed && d.Denials == tierlimit.DenialsPlain {
		DeleteHeaders(h)
		setRetryAfter(h, d)
		return
	}
	if theirs, tighter := compared(h, d, legacy != NoLegacy); tighter {
		setRetryAfter(h, d)
		return
	} else if theirs {
		DeleteHeaders(h)
	}
	if policy := d.RateLimitPolicy(); policy != "" && !legacy.alone() {
		var room [256]byte
		limit := room[:0]
		for i := range d.Windows {
			if w := &d.Windows[i]; w.EffectiveMax != tierlimit.Unlimited && !w.Shadow {
				limit = appendLimit(limit, w)
			}
		}
		if len(limit) > 0 { // else nothing was counted
			fields := [2]string{policy, string(limit)} // one allocation for both values
			h["Ratelimit-Policy"], h["Ratelimit"] = fields[:1:1], fields[1:]
		}
	}
	if legacy != NoLegacy {
		if w := d.Binding(); w != nil {
			setLegacy(h, w, legacy)
		}
	}
	setRetryAfter(h, d)
}

func setRetryAfter(h http.Header, d *tierlimit.Decision) {
	if !d.Allowed && d.RetryAfter > 0 {
		h.Set("Retry-After", strconv.FormatInt(ceilSeconds(d.RetryAfter), 10))
	}
}

// The fields of a limiter.
var fields = [...]string{"Ratelimit", "Ratelimit-Policy", "X-Ratelimit-Limit", "X-Ratelimit-Remaining", "X-Ratelimit-Reset"}

// DeleteHeaders removes the fields that SetHeaders writes, except Retry-After.
func DeleteHeaders(h http.Header) {
	for _, name := range fields {
		delete(h, name)
	}
}

// HasHeaders reports whether h has a field that SetHeaders writes, except Retry-After.
func HasHeaders(h http.Header) bool {
	for _, name := range fields {
		if len(h[name]) > 0 {
			return true
		}
	}
	return false
}

// Tighter reports whether h has the RateLimit or X-RateLimit-Remaining field of a limiter that
// leaves less than d, and whether h has one at all.
func Tighter(h http.Header, d *tierlimit.Decision) (tighter, present bool) {
	present, tighter = compared(h, d, true)
	return tighter, present
}

// compared reports whether h has a field of another limiter, and whether that limiter leaves less
// than d. X-RateLimit-Remaining is read only if legacy is true: without it, SetHeaders does not
// write that field, which may be of something else.
func compared(h http.Header, d *tierlimit.Decision, legacy bool) (present, tighter bool) {
	least := int64(-1)
	read := func(text string) {
		if r, err := strconv.ParseInt(text, 10, 64); err == nil && r >= 0 && (least < 0 || r < least) {
			least = r
		}
	}
	for _, field := range h["Ratelimit"] {
		present = true
		for _, part := range strings.Split(field, ";r=")[1:] {
			end := strings.IndexAny(part, ";, ")
			if end < 0 {
				end = len(part)
			}
			read(part[:end])
		}
	}
	if values := h["X-Ratelimit-Remaining"]; legacy && len(values) > 0 {
		present = true
		read(strings.TrimSpace(values[0]))
	}
	return present, least >= 0 && leavesMore(d, least)
}

// leavesMore reports whether every window that can deny leaves more than least.
func leavesMore(d *tierlimit.Decision, least int64) bool {
	counted := false
	for i := range d.Windows {
		if w := &d.Windows[i]; w.EffectiveMax != tierlimit.Unlimited && !w.Shadow {
			if counted = true; w.Remaining <= least {
				return false
			}
		}
	}
	return counted
}

// appendLimit appends an item of the RateLimit field. Limit names need no escapes in a
// structured field's string: see tierlimit.ValidName.
func appendLimit(b []byte, w *tierlimit.WindowState) []byte {
	if len(b) > 0 {
		b = append(b, ", "...)
	}
	b = append(append(append(b, '"'), w.Limit...), '"')
	b = strconv.AppendInt(append(b, ";r="...), w.Remaining, 10)
	if w.Reset > 0 {
		b = strconv.AppendInt(append(b, ";t="...), ceilSeconds(w.Reset), 10)
	}
	return b
}

func setLegacy(h http.Header, w *tierlimit.WindowState, legacy LegacyHeaders) {
	reset := ceilSeconds(w.Reset)
	if legacy == LegacyEpoch || legacy == LegacyEpochOnly {
		reset += time.Now().Unix()
	}
	h.Set("X-Ratelimit-Limit", strconv.FormatInt(w.EffectiveMax, 10))
	h.Set("X-Ratelimit-Remaining", strconv.FormatInt(w.Remaining, 10))
	h.Set("X-Ratelimit-Reset", strconv.FormatInt(reset, 10))
}

func ceilSeconds(d time.Duration) int64 {
	whole := d / time.Second
	if d%time.Second > 0 {
		whole++
	}
	return int64(whole)
}
