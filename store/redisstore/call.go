package redisstore

import (
	"encoding/binary"
	"slices"
	"time"

	"github.com/tierlimit/tierlimit"
)

// A call is a batch as scripts/take.lua takes it: the entries in groups of those
// with the same ceilings, the same runs and the same share, which are written once for each
// group.
type call struct {
	groups []group
	words  []any
	frame  []byte
}

type group struct {
	first   *entry
	entries []*entry
}

// lookBack is how many groups an entry is compared with. Past that it makes one
// of its own, which is longer to send and the same to Redis.
const lookBack = 8

// prepare sorts the entries that leave into groups, and lets their leases ask at
// an instant of their clock. It reports whether any leave.
func (c *call) prepare(b *batch, asked time.Duration) bool {
	for i := range b.entries {
		e := &b.entries[i]
		if e.leaves() {
			if e.lease != nil {
				e.lease.ask(e, asked)
			}
			c.add(e)
		}
	}
	return len(c.groups) > 0
}

func (e *entry) leaves() bool {
	for i := range e.runs {
		if e.runs[i].sent() > 0 {
			return true
		}
	}
	return false
}

func (c *call) add(e *entry) {
	for i := len(c.groups) - 1; i >= max(0, len(c.groups)-lookBack); i-- {
		if g := &c.groups[i]; g.first.alike(e) {
			g.entries = append(g.entries, e)
			return
		}
	}
	n := len(c.groups)
	c.groups = slices.Grow(c.groups, 1)[:n+1]
	g := &c.groups[n]
	g.first, g.entries = e, append(g.entries[:0], e)
}

// alike reports whether e and other differ in nothing but the subject.
func (e *entry) alike(other *entry) bool {
	if len(e.runs) != len(other.runs) || e.share != other.share || e.back > 0 || other.back > 0 {
		return false
	}
	for i := range e.runs {
		if e.runs[i].cost != other.runs[i].cost || e.runs[i].sent() != other.runs[i].sent() {
			return false
		}
	}
	return sameCeilings(e.ceilings, other.ceilings)
}

// command is the words of the Redis command, but for its name and the script.
func (c *call) command(again bool) []any {
	keys := 0
	for i := range c.groups {
		keys += len(c.groups[i].entries)
	}
	c.words = append(c.words[:0], nil, nil, keys)
	c.frame = append(c.frame[:0], 0)
	if again {
		c.frame[0] = 1
	}
	for i := range c.groups {
		g := &c.groups[i]
		for _, e := range g.entries {
			c.words = append(c.words, e)
		}
		c.frame = g.first.appendTo(c.frame, len(g.entries))
	}
	return append(c.words, c.frame)
}

// MarshalBinary is how go-redis writes an entry among the words of a command: as
// its key. That costs no allocation.
func (e *entry) MarshalBinary() ([]byte, error) {
	e.key = appendKey(e.key[:0], e.subject)
	return e.key, nil
}

// appendTo writes a group of so many subjects, who differ from e in nothing else, as
// a frame has it; see scripts/take.lua.
func (e *entry) appendTo(frame []byte, subjects int) []byte {
	frame = binary.BigEndian.AppendUint32(frame, uint32(subjects)) //nolint:gosec // at most maxBatch
	frame = append(frame, byte(len(e.ceilings)))                   //nolint:gosec // at most tierlimit.MaxLimits
	frame = appendUint(frame, int64(e.runsSent()), 2)
	head := len(frame) + 2
	frame = append(frame, 0, 0)
	for i := range e.ceilings {
		frame = append(append(frame, e.ceilings[i].Name...), ',')
	}
	frame[len(frame)-1] = ':'
	binary.BigEndian.PutUint16(frame[head-2:], uint16(len(frame)-head)) //nolint:gosec // 16 names of 64 bytes at most
	for i := range e.ceilings {
		frame = appendCeiling(frame, &e.ceilings[i])
	}
	for i := range e.runs {
		if n := e.runs[i].sent(); n > 0 {
			frame = appendUint(appendUint(frame, e.runs[i].cost, 7), n, 7)
		}
	}
	return e.appendLease(frame)
}

func (e *entry) appendLease(frame []byte) []byte {
	if !e.leased {
		return append(frame, 0)
	}
	frame = appendUint(appendUint(append(frame, 1), e.share, 7), e.back, 7)
	for _, end := range e.ends {
		frame = appendUint(frame, end, 6)
	}
	return frame
}

func appendCeiling(frame []byte, c *tierlimit.Ceiling) []byte {
	if c.Max == tierlimit.Unlimited {
		frame = append(frame, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff)
	} else {
		frame = appendUint(frame, c.Max, 7)
	}
	length := c.Window.Anchor
	switch c.Window.Period {
	case tierlimit.Day:
		frame = append(frame, 1)
	case tierlimit.Week:
		frame = append(frame, 2)
	case tierlimit.Month:
		frame = append(frame, 3)
	default:
		frame = append(frame, slidingOr0(c.Sliding))
		length = c.Window.Length.Milliseconds()
	}
	return appendUint(frame, length, 6)
}

// slidingOr0 is the number of a window's kind in a frame.
func slidingOr0(sliding bool) byte {
	if sliding {
		return 4
	}
	return 0
}

// appendUint writes n, which is not negative, in size bytes.
func appendUint(b []byte, n int64, size int) []byte {
	for shift := 8 * (size - 1); shift >= 0; shift -= 8 {
		b = append(b, byte(n>>shift)) //nolint:gosec // one byte at a time
	}
	return b
}

func (e *entry) runsSent() int {
	n := 0
	for i := range e.runs {
		if e.runs[i].sent() > 0 {
			n++
		}
	}
	return n
}

// all are the entries that leave.
func (c *call) all() (list []*entry) {
	for i := range c.groups {
		list = append(list, c.groups[i].entries...)
	}
	return list
}

// readAlone reads a reply that is for e alone.
func (e *entry) readAlone(reply []int64) {
	e.err = errReply
	if len(reply) == 0 {
		return
	}
	e.now = reply[0]
	if rest, err := e.read(reply[1:]); err != nil || len(rest) > 0 {
		e.err = errReply
	}
}

// read takes the script's reply apart.
func (c *call) read(reply []int64) error {
	if len(reply) == 0 {
		return errReply
	}
	now := reply[0]
	reply = reply[1:]
	for i := range c.groups {
		for _, e := range c.groups[i].entries {
			e.now = now
			var err error
			if reply, err = e.read(reply); err != nil {
				return err
			}
		}
	}
	if len(reply) > 0 {
		return errReply
	}
	return nil
}

func (e *entry) read(reply []int64) (rest []int64, err error) {
	if len(reply) > 0 && reply[0] < 0 {
		return e.readError(reply)
	}
	before := int64(0)
	for i := range e.runs {
		r := &e.runs[i]
		r.before, r.admitted = before, 0
		if r.sent() == 0 {
			continue
		}
		if len(reply) == 0 {
			return nil, errReply
		}
		r.admitted, reply = reply[0], reply[1:]
		before = plus(before, times(r.cost, r.admitted))
	}
	if e.leased {
		if len(reply) == 0 {
			return nil, errReply
		}
		e.granted, reply = reply[0], reply[1:]
	}
	n := e.width() * len(e.ceilings)
	if len(reply) < n {
		return nil, errReply
	}
	e.counts, e.err = reply[:n], nil
	return reply[n:], nil
}

// width is how many numbers come back for each ceiling.
func (e *entry) width() int {
	for i := range e.ceilings {
		if e.ceilings[i].Sliding {
			return 3
		}
	}
	return 2
}

// readError reads an error's text: minus its length, then its bytes.
func (e *entry) readError(reply []int64) (rest []int64, err error) {
	n := int(-reply[0])
	if n < 0 || n >= len(reply) { // the lowest number has no opposite
		return nil, errReply
	}
	text := make([]byte, n)
	for i := range text {
		text[i] = byte(reply[1+i]) //nolint:gosec // the script sends bytes
	}
	e.err = classify(replyError(text))
	return reply[1+n:], nil
}

// A replyError is an error that stood in the place of an answer.
type replyError string

func (e replyError) Error() string { return string(e) }

// RedisError marks the text as Redis' own, as go-redis does.
func (replyError) RedisError() {}

// answer tells the leases that asked at an instant of their clock.
func (c *call) answer(asked time.Duration) {
	for i := range c.groups {
		for _, e := range c.groups[i].entries {
			if e.leased {
				e.lease.answered(e, asked)
			}
		}
	}
}

func (c *call) rest() {
	for i := range c.groups {
		g := &c.groups[i]
		clear(g.entries)
		g.first, g.entries = nil, g.entries[:0]
	}
	c.groups = c.groups[:0]
	clear(c.words)
	c.words = c.words[:0]
}
