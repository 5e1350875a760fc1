package guard

import (
	"math/bits"
	"sync/atomic"
	"time"
)

const (
	sketchWidth = 1 << 12
	// halfLife is how long it takes until a request counts half.
	halfLife = 5 * time.Second
)

// A usage counts the recent requests of each subject in bounded memory: a count-min sketch with two
// rows whose counts are halved every halfLife. Subjects that share both counters with others look
// heavier than they are, never lighter. It is safe for concurrent use.
//
// Source: Cormode and Muthukrishnan, An Improved Data Stream Summary, 2005.
type usage struct {
	rows [2][sketchWidth]atomic.Uint32
	aged time.Duration // since the last halving; used by one goroutine at a time
}

// add counts a request of the subject with this hash and returns the subject's recent requests.
func (u *usage) add(hash uint64) uint32 {
	return min(
		u.rows[0][hash%sketchWidth].Add(1),
		u.rows[1][(hash>>32)%sketchWidth].Add(1),
	)
}

// age lets elapsed pass. A request that is counted meanwhile may be lost.
func (u *usage) age(elapsed time.Duration) {
	u.aged += elapsed
	if u.aged < halfLife {
		return
	}
	halvings := uint(min(u.aged/halfLife, 32))
	u.aged = 0
	for r := range u.rows {
		for i := range u.rows[r] {
			if n := u.rows[r][i].Load(); n > 0 {
				u.rows[r][i].Store(n >> halvings)
			}
		}
	}
}

// hashOf is FNV-1a, so that all replicas agree, with a finalizer that spreads it over all bits.
func hashOf(subject string) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(subject) {
		h = (h ^ uint64(subject[i])) * 1099511628211
	}
	return mixed(h)
}

// mixed is the finalizer of SplitMix64.
func mixed(h uint64) uint64 {
	h = (h ^ h>>30) * 0xbf58476d1ce4e5b9
	h = (h ^ h>>27) * 0x94d049bb133111eb
	return h ^ h>>31
}

// The levels of the requests of one priority. A lower level is refused first. The order within a
// priority is that of DAGOR, with the weight before the hash (Zhou et al., Overload Control for
// Scaling WeChat Microservices, 2018).
const (
	tieBits = 5
	weights = 14
	levels  = weights << tieBits
)

// levelOf returns the level of a request: subjects that asked less recently have a higher one, by
// powers of two, and subjects that asked alike are ordered by their hash and the hour.
func levelOf(hash uint64, requests uint32, hour int64) int {
	weight := min(bits.Len32(requests), weights-1)
	tie := mixed(hash+uint64(hour)*0x9e3779b97f4a7c15) >> (64 - tieBits) //nolint:gosec // any bits will do
	return (weights-1-weight)<<tieBits | int(tie)
}
