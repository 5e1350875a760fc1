package api

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strconv"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/internal/problem"
	"github.com/tierlimit/tierlimit/internal/strictjson"
	"github.com/tierlimit/tierlimit/tiers"
)

// fail answers with what went wrong. Clients learn what they can mend; what
// only an operator can is logged and not shown.
func fail(w http.ResponseWriter, r *http.Request, log *slog.Logger, err error) {
	if fields := fieldErrors(err); len(fields) > 0 {
		detail := fields[0].Detail
		if len(fields) > 1 {
			detail = strconv.Itoa(len(fields)) + " fields are wrong."
		}
		if len(fields) > maxFields {
			detail += " The first of them are listed."
			fields = fields[:maxFields]
		}
		problem.Write(w, problem.Problem{Status: http.StatusBadRequest, Detail: detail, Errors: fields})
		return
	}
	status := statusOf(err)
	p := problem.Problem{Status: status, Detail: err.Error()}
	var inUse *tiers.InUseError
	if errors.As(err, &inUse) {
		p.InTheWay = inUse.Subjects
	}
	level := slog.LevelDebug
	switch status {
	case http.StatusInternalServerError:
		level, p.Detail = slog.LevelError, ""
	case http.StatusServiceUnavailable:
		// Who watches the server behind has said so once: not with each request.
		p.Detail = "A server that is needed for this does not answer now."
		w.Header().Set("Retry-After", "1")
	}
	log.Log(r.Context(), level, "api: request refused", "status", status, "method", r.Method, "path", r.URL.Path, "error", err)
	problem.Write(w, p)
}

// maxFields is the maximum number of invalid fields listed in one response.
const maxFields = 32

func statusOf(err error) int {
	for _, known := range []struct {
		err    error
		status int
	}{
		{errThere, http.StatusPreconditionFailed},
		{tiers.ErrNotFound, http.StatusNotFound},
		{tiers.ErrExists, http.StatusConflict},
		{tiers.ErrInUse, http.StatusConflict},
		{tiers.ErrStale, http.StatusPreconditionFailed},
		{errForbidden, http.StatusForbidden},
		{errAttemptReused, http.StatusUnprocessableEntity},
		{errNoVersion, http.StatusPreconditionRequired},
		{errTooLarge, http.StatusRequestEntityTooLarge},
		{errTooSlow, http.StatusRequestTimeout},
		{tierlimit.ErrStoreUnavailable, http.StatusServiceUnavailable},
		{tiers.ErrUnavailable, http.StatusServiceUnavailable},
		{tierlimit.ErrNoPlan, http.StatusServiceUnavailable},
		{context.DeadlineExceeded, http.StatusServiceUnavailable},
		{context.Canceled, http.StatusServiceUnavailable}, // the client has gone, and will not read it
	} {
		if errors.Is(err, known.err) {
			return known.status
		}
	}
	return http.StatusInternalServerError
}

func isFieldError(err error) bool {
	var field *tierlimit.FieldError
	return errors.As(err, &field)
}

// fieldErrors returns every input error in err as a client is told of it.
func fieldErrors(err error) []problem.Field {
	var all []problem.Field
	for _, field := range strictjson.Fields(err) {
		all = append(all, problem.Field{Field: field.Field, Detail: field.Error()})
	}
	return all
}
