package load_test

import (
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/load"
)

// A server answers reports with a status, or with an error in place of 0.
type server struct {
	mu     sync.Mutex
	status int
	got    []string
	at     []time.Time
}

func (s *server) answer(status int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status, s.got, s.at = status, nil, nil
}

func (s *server) reports() ([]string, []time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.got, s.at
}

func (s *server) RoundTrip(r *http.Request) (*http.Response, error) {
	body, _ := io.ReadAll(r.Body)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.got = append(s.got, r.Method+" "+r.URL.String()+" "+r.Header.Get("Authorization")+" "+string(body))
	s.at = append(s.at, time.Now())
	if s.status == 0 {
		return nil, errors.New("refused")
	}
	return &http.Response{StatusCode: s.status, Status: http.StatusText(s.status), Body: io.NopCloser(strings.NewReader("why")), Request: r}, nil
}

func startReporter(t *testing.T, s *server, m load.Meter, log io.Writer) *load.Reporter {
	t.Helper()
	r, err := load.Report(load.ReporterConfig{
		URL: "http://tierlimit:8080", Token: "the-token-of-a-service", Source: "api-1", Meter: m,
		Client: &http.Client{Transport: s}, Logger: slog.New(slog.NewTextHandler(log, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestAReporterReportsOnceASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &server{status: http.StatusNoContent}
		r := startReporter(t, s, &script{u: 1.25}, io.Discard) // more than a quota, for an instant
		time.Sleep(10*time.Second + time.Millisecond)
		r.Close()
		got, _ := s.reports()
		if len(got) != 11 || got[0] != `POST http://tierlimit:8080/v1/load/report Bearer the-token-of-a-service {"source":"api-1","cpu":1,"capacity":2}` {
			t.Errorf("%d: %q", len(got), got)
		}
	})
}

// A server that is away is asked less and less, and hears the load of the moment once it is back.
func TestAReporterBacksOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		s, m := &server{}, &script{u: 0.3}
		r := startReporter(t, s, m, &log)
		time.Sleep(5 * time.Minute)
		failed, at := s.reports()
		if len(failed) < 10 || len(failed) > 30 || at[len(at)-1].Sub(at[len(at)-2]) > 31*time.Second {
			t.Errorf("%d reports in five minutes", len(failed))
		}
		s.answer(http.StatusNoContent)
		m.set(0.7, nil)
		time.Sleep(time.Minute)
		r.Close()
		arrived, at := s.reports()
		if len(arrived) < 28 || !strings.Contains(arrived[0], `"cpu":0.7`) || at[1].Sub(at[0]) != time.Second {
			t.Errorf("%d: %q", len(arrived), arrived)
		}
		if n := strings.Count(log.String(), "\n"); n != 2 {
			t.Errorf("%d lines for one outage: %s", n, log.String())
		}
	})
}

// What is refused is logged with the server's reason.
func TestAReporterSaysWhyItIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		r := startReporter(t, &server{status: http.StatusForbidden}, &script{u: 0.3}, &log)
		time.Sleep(time.Second)
		r.Close()
		if !strings.Contains(log.String(), "Forbidden why") {
			t.Error(log.String())
		}
	})
}

func TestAReporterOfAFailingMeterSendsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &server{status: http.StatusNoContent}
		r := startReporter(t, s, &script{err: errors.New("no /proc")}, io.Discard)
		time.Sleep(time.Minute)
		r.Close()
		if got, _ := s.reports(); len(got) > 0 {
			t.Errorf("%q", got)
		}
	})
}

func TestReportNamesTheFieldThatIsWrong(t *testing.T) {
	for field, cfg := range map[string]load.ReporterConfig{
		"URL":    {URL: "tierlimit:8080", Source: "api"},
		"Source": {URL: "http://tierlimit", Source: "API"},
	} {
		_, err := load.Report(cfg)
		if wrong := new(tierlimit.FieldError); !errors.As(err, &wrong) || wrong.Field != field {
			t.Errorf("%v, want an error of %s", err, field)
		}
	}
}
