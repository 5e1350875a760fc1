package proxy

import (
	"io"
	"net/http"
	"time"
)

// maxPause is how long a client may pause within the body of a request.
const maxPause = 30 * time.Second

// withPatience lifts the server's ReadTimeout for the requests that pass: their bodies may take as
// long as they need, without a pause longer than maxPause, and responses may be streams that never
// end. A request that is denied keeps the server's ReadTimeout.
func withPatience(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		control := http.NewResponseController(w)
		_ = control.SetReadDeadline(time.Time{}) // a writer that cannot has no deadline either
		if r.Body != nil && r.Body != http.NoBody {
			r.Body = &patientBody{r.Body, control}
		}
		next.ServeHTTP(w, r)
	})
}

// A patientBody is a body whose reads have a deadline each.
type patientBody struct {
	io.ReadCloser
	control *http.ResponseController
}

func (b *patientBody) Read(p []byte) (int, error) {
	_ = b.control.SetReadDeadline(time.Now().Add(maxPause))
	n, err := b.ReadCloser.Read(p)
	if err != nil { // the response may take longer
		_ = b.control.SetReadDeadline(time.Time{})
	}
	return n, err
}
