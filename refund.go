package tierlimit

import (
	"encoding/base64"
	"encoding/binary"
	"math/rand/v2"
)

// A Refund asks a Store to take a charge back.
type Refund struct {
	Subject string
	Cost    int64  // 1 to MaxCount
	Nonce   uint64 // of the charge; not 0
	At      int64  // as Outcome has it: what was reset since then is not given back
	Windows []RefundWindow
}

// A RefundWindow is one that was charged; windows are in ascending order of names. Once
// a window has ended, or ends at another time, there is nothing to give back in it.
type RefundWindow struct {
	Limit  string
	End    int64 // as Count has it
	Length int64 // of a sliding window, in milliseconds; 0 for another
}

// LastEnd is when the last of the windows ends.
func (r *Refund) LastEnd() int64 {
	last := int64(0)
	for i := range r.Windows {
		last = max(last, r.Windows[i].End)
	}
	return last
}

// Validate reports a refund that no store should see.
func (r *Refund) Validate() error {
	if err := checkSubject(r.Subject); err != nil {
		return err
	}
	if err := checkCost(r.Cost); err != nil {
		return err
	}
	if r.Cost == 0 || r.Nonce == 0 || r.At <= 0 || r.At > MaxAnchor || len(r.Windows) == 0 || len(r.Windows) > MaxLimits {
		return idError("")
	}
	for i := range r.Windows {
		w := &r.Windows[i]
		if !ValidName(w.Limit) || w.End <= 0 || w.End > MaxAnchor || w.Length < 0 || w.Length > MaxLength.Milliseconds() ||
			i > 0 && w.Limit <= r.Windows[i-1].Limit {
			return idError("")
		}
	}
	return nil
}

// newNonce is random: whoever else charges at the same time must not draw the
// same one for the same subject and windows.
func newNonce() uint64 {
	for {
		if n := rand.Uint64(); n != 0 { //nolint:gosec // not a secret
			return n
		}
	}
}

func (d *Decision) refund() Refund {
	r := Refund{Subject: d.Subject, Cost: d.Cost, Nonce: d.Nonce, At: d.at}
	for i := range d.Windows {
		r.Windows = append(r.Windows, d.Windows[i].refund())
	}
	return r
}

func (w *WindowState) refund() RefundWindow {
	r := RefundWindow{Limit: w.Limit, End: w.end}
	if w.Algorithm == Sliding {
		r.Length = w.Window.Length.Milliseconds()
	}
	return r
}

// ID names the charge of d for [Limiter.RefundID]: base64url of all a refund
// needs, so that nobody has to keep it. It is not a secret and proves nothing.
// It is "" if there is nothing that could be given back.
func (d *Decision) ID() string { return string(d.appendID(nil)) }

// idVersion is the first byte of an ID.
const idVersion = 1

func (d *Decision) appendID(b []byte) []byte {
	if d.Nonce == 0 {
		return b
	}
	var room [512]byte
	id := append(room[:0], idVersion)
	id = binary.BigEndian.AppendUint64(id, d.Nonce)
	id = binary.AppendUvarint(id, uint64(d.Cost)) //nolint:gosec // not negative
	id = binary.AppendUvarint(id, uint64(d.at))   //nolint:gosec // not negative
	id = appendText(id, d.Subject)
	for i := range d.Windows {
		w := d.Windows[i].refund()
		id = appendText(id, w.Limit)
		id = binary.AppendUvarint(id, uint64(w.End))    //nolint:gosec // not negative
		id = binary.AppendUvarint(id, uint64(w.Length)) //nolint:gosec // not negative
	}
	return base64.RawURLEncoding.AppendEncode(b, id)
}

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func idError(id string) error {
	return &FieldError{Field: "id", Value: id, Want: "the id of a decision, as it was sent"}
}

// maxID is longer than any ID.
const maxID = 4096

func parseID(id string) (Refund, error) {
	if len(id) > maxID {
		return Refund{}, idError(id)
	}
	data, err := base64.RawURLEncoding.DecodeString(id)
	if err != nil || len(data) < 9 || data[0] != idVersion {
		return Refund{}, idError(id)
	}
	p := idParser{data: data[9:]}
	r := Refund{Nonce: binary.BigEndian.Uint64(data[1:9]), Cost: p.number(), At: p.number(), Subject: p.text()}
	for len(p.data) > 0 && !p.bad && len(r.Windows) < MaxLimits {
		r.Windows = append(r.Windows, RefundWindow{Limit: p.text(), End: p.number(), Length: p.number()})
	}
	if p.bad || len(p.data) > 0 || r.Validate() != nil {
		return Refund{}, idError(id)
	}
	return r, nil
}

type idParser struct {
	data []byte
	bad  bool
}

func (p *idParser) number() int64 {
	n, size := binary.Uvarint(p.data)
	if size <= 0 || n > uint64(MaxCount) {
		p.bad = true
		return 0
	}
	p.data = p.data[size:]
	return int64(n)
}

func (p *idParser) text() string {
	n := int(p.number())
	if p.bad || n > len(p.data) {
		p.bad = true
		return ""
	}
	s := string(p.data[:n])
	p.data = p.data[n:]
	return s
}
