package redisstore

import (
	"context"
	"encoding/binary"
	"slices"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/window"
)

// A frame is a batch as scripts/take.lua reads it: the entries in groups of those with
// the same ceilings and the same runs, which are written once for each group.
type frame struct {
	groups []group
	words  []any
	text   []byte
	all    []*entry
	calls  []onceString // on a Cluster
}

type group struct {
	first   *entry
	entries []*entry
}

// lookBack is how many groups an entry is compared with. Past that it makes one of its
// own, which is longer to send and the same to Redis.
const lookBack = 8

// prepare sorts the entries of b that leave into groups, and reports whether any leave.
func (f *frame) prepare(b *batch) bool {
	for i := range b.entries {
		if e := &b.entries[i]; e.leaves() {
			f.add(e)
		}
	}
	return len(f.groups) > 0
}

func (f *frame) add(e *entry) {
	for i := len(f.groups) - 1; i >= max(0, len(f.groups)-lookBack); i-- {
		if g := &f.groups[i]; g.first.alike(e) {
			g.entries = append(g.entries, e)
			return
		}
	}
	n := len(f.groups)
	f.groups = slices.Grow(f.groups, 1)[:n+1]
	g := &f.groups[n]
	g.first, g.entries = e, append(g.entries[:0], e)
}

// alike reports whether e and other differ in nothing but the subject.
func (e *entry) alike(other *entry) bool {
	if len(e.runs) != len(other.runs) || !e.ceilings.Equal(other.ceilings) {
		return false
	}
	for i := range e.runs {
		if e.runs[i].cost != other.runs[i].cost || e.runs[i].sent() != other.runs[i].sent() {
			return false
		}
	}
	return true
}

// command returns the words of the Redis command, with room for its name and the
// script. again is whether a subject stands in more than one entry.
func (f *frame) command(again bool) []any {
	f.words = append(f.words[:0], nil, nil, 0)
	f.text = append(f.text[:0], 0)
	if again {
		f.text[0] = 1
	}
	keys := 0
	for i := range f.groups {
		g := &f.groups[i]
		for _, e := range g.entries {
			f.words = append(f.words, e)
		}
		keys += len(g.entries)
		f.text = g.first.appendGroup(f.text, len(g.entries))
	}
	f.words[2] = keys
	return append(f.words, f.text)
}

// alone returns a call for each entry by itself. With teach the first carries the script's
// source. The calls are good until the frame is used again.
func (f *frame) alone(ctx context.Context, entries []*entry, teach bool) []onceString {
	f.words, f.calls = f.words[:0], f.calls[:0]
	for i, e := range entries {
		verb, script := evalsha, takeSHA
		if teach && i == 0 {
			verb, script = eval, takeSource
		}
		f.words = append(f.words, verb, script, 1, e, (*lone)(e))
	}
	const each = 5
	for i := range entries {
		f.calls = append(f.calls, onceString{redis.NewStringCmd(ctx, f.words[each*i:each*(i+1):each*(i+1)]...)})
	}
	return f.calls
}

// lone is an entry whose MarshalBinary writes the frame for the entry by itself.
type lone entry

func (l *lone) MarshalBinary() ([]byte, error) {
	l.scratch = (*entry)(l).appendGroup(append(l.scratch[:0], 0), 1)
	return l.scratch, nil
}

// MarshalBinary is how go-redis writes an entry among the words of a command: as its
// key. That costs no allocation.
func (e *entry) MarshalBinary() ([]byte, error) {
	e.scratch = appendKey(e.scratch[:0], e.subject)
	return e.scratch, nil
}

// appendGroup appends a group of so many subjects, which differ from e in nothing else.
func (e *entry) appendGroup(text []byte, subjects int) []byte {
	text = binary.BigEndian.AppendUint32(text, uint32(subjects)) //nolint:gosec // at most maxBatch
	at := len(text)
	text = append(append(text, 0, 0), e.ceilings.Encoded()...)
	runs := 0
	for i := range e.runs {
		if n := e.runs[i].sent(); n > 0 {
			text = appendUint(appendUint(text, e.runs[i].cost, 7), n, 7)
			runs++
		}
	}
	binary.BigEndian.PutUint16(text[at:], uint16(runs))
	return text
}

// appendUint appends n, which is not negative, in size bytes.
func appendUint(b []byte, n int64, size int) []byte {
	for shift := 8 * (size - 1); shift >= 0; shift -= 8 {
		b = append(b, byte(n>>shift)) //nolint:gosec // one byte at a time
	}
	return b
}

// entries returns those that leave. The slice is good until the next call.
func (f *frame) entries() []*entry {
	f.all = f.all[:0]
	for i := range f.groups {
		f.all = append(f.all, f.groups[i].entries...)
	}
	return f.all
}

func (f *frame) rest() {
	for i := range f.groups {
		g := &f.groups[i]
		clear(g.entries)
		g.first, g.entries = nil, g.entries[:0]
	}
	f.groups = f.groups[:0]
	// Clear up to the capacity: a retry that sends the script's source uses shorter slices, and
	// leaves pointers of the first try behind their length.
	clear(f.words[:cap(f.words)])
	clear(f.all[:cap(f.all)])
	clear(f.calls[:cap(f.calls)])
	f.words, f.all, f.calls = f.words[:0], f.all[:0], f.calls[:0]
}

// read takes the script's reply apart.
func (f *frame) read(reply string) error {
	if len(reply) < instant {
		return errReply
	}
	now := readUint(reply, instant)
	reply = reply[instant:]
	for i := range f.groups {
		for _, e := range f.groups[i].entries {
			var err error
			if reply, err = e.read(now, reply); err != nil {
				return err
			}
		}
	}
	if reply != "" {
		return errReply
	}
	return nil
}

// readAlone reads a reply that is for e alone.
func (e *entry) readAlone(reply string) {
	e.err = errReply
	if len(reply) < instant {
		return
	}
	if rest, err := e.read(readUint(reply, instant), reply[instant:]); err != nil || rest != "" {
		e.err = errReply
	}
}

// An answer is what scripts/take.lua said of a key. Its callers take it apart, each for
// itself.
type answer struct {
	form byte
	text string
}

// The forms of an answer.
const (
	formOpened = 0 // no window had begun
	formAny    = 1 // admitted for each run, then used, end and previous for each ceiling
	formError  = 2 // an error's text
	formValue  = 3 // the value as it was found, without its head
)

// The widths of numbers, in bytes.
const (
	count   = 7
	instant = 6
)

// read takes the answer for e off reply, and returns what follows.
func (e *entry) read(now int64, reply string) (rest string, err error) {
	if reply == "" {
		return "", errReply
	}
	e.now = now
	form, n, size := reply[0], e.ceilings.Len(), 0
	switch form {
	case formOpened, formAny, formError:
		reply = reply[1:]
	default: // the first letter of a name
		form = formValue
		head := e.head()
		if !strings.HasPrefix(reply, head) {
			return "", errReply
		}
		reply = reply[len(head):]
	}
	switch form {
	case formValue:
		size = n * (count + instant)
	case formAny:
		size = e.runsSent()*count + n*(count+instant+count)
	case formError:
		if len(reply) < 4 {
			return "", errReply
		}
		size = int(readUint(reply, 4))
		reply = reply[4:]
	}
	if len(reply) < size {
		return "", errReply
	}
	e.answer, e.err = answer{form, reply[:size]}, nil
	if form == formError {
		e.err = classify(replyError(reply[:size]))
	}
	return reply[size:], nil
}

// head returns the names of the ceilings as a value has them.
func (e *entry) head() string {
	encoded := e.ceilings.Encoded()
	return encoded[3 : 3+readUint(encoded[1:], 2)]
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

// found returns the window of ceiling i before the first charge.
func (a *answer) found(e *entry, i int) window.Stored {
	n := e.ceilings.Len()
	switch a.form {
	case formValue:
		return window.Stored{Used: readUint(a.text[i*count:], count), End: readUint(a.text[n*count+i*instant:], instant)}
	case formAny:
		text := a.text[e.runsSent()*count+i*(count+instant+count):]
		w := window.Stored{Used: readUint(text, count), End: readUint(text[count:], instant)}
		if e.ceilings.Spec(i).Kind == window.Sliding && w.End > 0 {
			w.Previous, w.PreviousEnd = readUint(text[count+instant:], count), w.End-e.ceilings.Spec(i).Length
		}
		return w
	}
	return window.Stored{}
}

// admitted returns how many charges of a run were made, and what the runs before it
// charged.
func (a *answer) admitted(e *entry, run int) (admitted, before int64) {
	if a.form != formAny {
		return a.fits(e), 0 // the only run
	}
	text := a.text
	for i := range e.runs[:run+1] {
		r := &e.runs[i]
		if r.sent() == 0 {
			continue
		}
		admitted = readUint(text, count)
		if text = text[count:]; i < run {
			before = plus(before, times(r.cost, admitted))
		}
	}
	return admitted, before
}

// fits returns how many charges of the only run fit, as take.lua reckons it.
func (a *answer) fits(e *entry) int64 {
	var fits int64
	var cost int64
	for i := range e.runs {
		if n := e.runs[i].sent(); n > 0 {
			fits, cost = n, e.runs[i].cost
		}
	}
	for i := range e.ceilings.Len() {
		most := e.ceilings.Max(i)
		if left := most - a.found(e, i).Used; most != tierlimit.Unlimited && cost > 0 && times(cost, fits) > left {
			fits = max(left/cost, 0)
		}
	}
	return fits
}

// readUint reads a number of size bytes, which text has.
func readUint(text string, size int) (n int64) {
	for i := range size {
		n = n<<8 | int64(text[i])
	}
	return n
}

// A replyError is an error that stood in the place of an answer.
type replyError string

func (e replyError) Error() string { return string(e) }

// RedisError marks the text as Redis' own, as go-redis does.
func (replyError) RedisError() {}
