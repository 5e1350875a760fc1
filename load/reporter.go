package load

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/tierlimit/tierlimit"
)

// ReporterConfig says who reports to whom.
type ReporterConfig struct {
	URL    string // required: the public listener of tierlimit, such as http://tierlimit:8080
	Token  string // required unless the server is tierlimit dev: a token of the role service
	Source string // the name of this instance; default of the host's name
	Meter  Meter  // default CPU()
	// Client sends the reports; default one that follows no redirects.
	Client *http.Client
	Logger *slog.Logger // told when reports fail and when they arrive again; default slog.Default
}

// Times of a Reporter.
const (
	reportEvery   = time.Second
	reportTimeout = 2 * time.Second
	maxBackoff    = 30 * time.Second
)

// A Reporter tells tierlimit once a second how busy the service is that it is part of. It has a
// goroutine of its own and one request at a time, so it never holds the service up. After a
// failure it waits longer and longer, up to half a minute, and sends what it measures then: a
// report that was lost is not sent again.
type Reporter struct {
	cfg     ReporterConfig
	target  string
	stop    context.CancelFunc
	running sync.WaitGroup
}

// Report starts a Reporter; Close stops it. An error is a *tierlimit.FieldError of cfg. That the
// server cannot be reached is no error.
func Report(cfg ReporterConfig) (*Reporter, error) {
	server, err := url.Parse(cfg.URL)
	if err != nil || server.Scheme != "http" && server.Scheme != "https" || server.Host == "" {
		return nil, &tierlimit.FieldError{Field: "URL", Value: "(hidden)", Want: "http:// or https:// and a host, such as http://tierlimit:8080"}
	}
	cfg.Source = cmp.Or(cfg.Source, hostName())
	if !tierlimit.ValidName(cfg.Source) || cfg.Source == ownWord {
		return nil, &tierlimit.FieldError{Field: "Source", Value: cfg.Source, Want: tierlimit.NameRule + ", and not " + ownWord}
	}
	if cfg.Meter == nil {
		cfg.Meter = CPU()
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.Client == nil {
		cfg.Client = &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	}
	r := &Reporter{cfg: cfg, target: server.JoinPath("/v1/load/report").String()}
	ctx, stop := context.WithCancel(context.Background())
	r.stop = stop
	r.running.Go(func() { r.run(ctx) })
	return r, nil
}

// Close stops the reports, and returns when that has stopped.
func (r *Reporter) Close() {
	r.stop()
	r.running.Wait()
}

func (r *Reporter) run(ctx context.Context) {
	state := failure{log: r.cfg.Logger, lost: "load: reports do not arrive", found: "load: reports arrive again"}
	tick := time.NewTicker(reportEvery)
	defer tick.Stop()
	var pause time.Duration
	var resume time.Time
	for {
		reading, ok, err := r.sample(time.Now()) // also in a pause, as a meter compares with the sample before
		if err == nil && ok && !time.Now().Before(resume) {
			if err = r.send(ctx, reading); err == nil {
				pause = 0
			} else {
				// Random, because all services lose a server at the same instant.
				pause = min(2*pause+reportEvery, maxBackoff)
				resume = time.Now().Add(pause/2 + rand.N(pause/2)) //nolint:gosec // nobody gains by guessing it
			}
		}
		if err != nil && ctx.Err() == nil || pause == 0 {
			state.saw(err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// sample measures. ok is false if the meter has nothing to tell.
func (r *Reporter) sample(now time.Time) (reading Reading, ok bool, err error) {
	m := r.cfg.Meter
	u, ok, err := m.Read(now)
	if err != nil {
		return Reading{}, false, fmt.Errorf("sample %s: %w", m.Source(), err)
	}
	reading = Reading{Source: r.cfg.Source, CPU: min(u, 1), Capacity: min(m.Capacity(), MaxCapacity)}
	return reading, ok && reading.Validate() == nil, nil
}

func (r *Reporter) send(ctx context.Context, reading Reading) error {
	body, err := json.Marshal(reading)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, reportTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.target, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	if r.cfg.Token != "" {
		req.Header.Set("Authorization", "Bearer "+r.cfg.Token)
	}
	resp, err := r.cfg.Client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusNoContent {
		answer, _ := io.ReadAll(io.LimitReader(resp.Body, 4<<10)) // the status says enough without it
		return errors.New("load report: " + resp.Status + " " + string(answer))
	}
	return nil
}

// hostName returns the name of this machine as a name of a source.
func hostName() string {
	host, _ := os.Hostname()
	name := strings.Map(func(c rune) rune {
		if c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' {
			return c
		}
		return '-'
	}, strings.ToLower(host))
	name = strings.TrimLeft(name, "-")
	return cmp.Or(name[:min(len(name), 56)], "unknown")
}
