package envoy

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"net/http"
	"runtime/debug"
	"strconv"
	"sync"
	"time"

	ratelimitcommonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/httplimit"
	"github.com/tierlimit/tierlimit/internal/lograte"
)

// Entries names the entries of a descriptor that have a meaning. The zero Entries has the default
// names. Entries of other names are ignored.
type Entries struct {
	Subject string // the subject; default subject
	APIKey  string // an API key, by itself or behind "Bearer "; default api_key
	Address string // the client's address; default remote_address
	Scope   string // the scope; default scope
	Cost    string // the cost, where Envoy sends no hits_addend; default cost
}

// UnknownKey is the subject of descriptors that have an unknown API key and no address. All these
// descriptors share one subject; otherwise made-up keys would not be limited.
const UnknownKey = "key:unknown"

// Validate returns a *tierlimit.FieldError if two entries have the same name.
func (e *Entries) Validate() error {
	filled := *e
	return filled.fill()
}

func (e *Entries) fill() error {
	names := make(map[string]bool)
	for _, n := range []struct {
		name     *string
		field    string
		fallback string
	}{
		{&e.Subject, "Subject", "subject"},
		{&e.APIKey, "APIKey", "api_key"},
		{&e.Address, "Address", "remote_address"},
		{&e.Scope, "Scope", "scope"},
		{&e.Cost, "Cost", "cost"},
	} {
		if *n.name == "" {
			*n.name = n.fallback
		}
		if names[*n.name] {
			return &tierlimit.FieldError{Field: "Entries." + n.field, Value: *n.name, Want: "a name that no other entry has"}
		}
		names[*n.name] = true
	}
	return nil
}

// rateLimits is the rate limit service.
type rateLimits struct {
	ratelimitv3.UnimplementedRateLimitServiceServer
	lim     Limiter
	entries Entries
	byKey   httplimit.SubjectFunc
	byAddr  httplimit.SubjectFunc
	legacy  httplimit.LegacyHeaders
	log     *slog.Logger
	refused lograte.Line // requests that cannot be understood
}

// keyHeader carries an API key to httplimit.ByKey.
const keyHeader = "X-Api-Key"

func newRateLimits(lim Limiter, cfg *Config) (*rateLimits, error) {
	if err := cfg.Entries.fill(); err != nil {
		return nil, err
	}
	return &rateLimits{
		lim: lim, entries: cfg.Entries, legacy: cfg.Limit.Legacy, log: cfg.Logger,
		byKey:  httplimit.ByKey(cfg.Limit.Who.Keys, keyHeader),
		byAddr: httplimit.ByAddress(httplimit.AddressConfig{IPv6Prefix: cfg.Limit.Who.Address.IPv6Prefix}),
	}, nil
}

// maxDescriptors bounds the decisions of a request.
const maxDescriptors = 64

// ShouldRateLimit decides each descriptor by itself, as envoyproxy/ratelimit does: a descriptor
// that is over its limit does not give back what another one was charged. The request is over the
// limit if one of its descriptors is.
func (s *rateLimits) ShouldRateLimit(ctx context.Context, req *ratelimitv3.RateLimitRequest) (*ratelimitv3.RateLimitResponse, error) {
	answer, err := s.decide(ctx, req)
	if err != nil {
		s.refused.Add(1, func(total int64) {
			s.log.Warn("grpc: requests of Envoy are refused, and pass if Envoy's failure mode says so", "requests", total, "error", err)
		})
		return nil, statusOf(err)
	}
	return answer, nil
}

func (s *rateLimits) decide(ctx context.Context, req *ratelimitv3.RateLimitRequest) (*ratelimitv3.RateLimitResponse, error) {
	descriptors := req.GetDescriptors()
	switch {
	case req.GetDomain() == "":
		return nil, &tierlimit.FieldError{Field: "domain", Want: "given"}
	case len(descriptors) == 0 || len(descriptors) > maxDescriptors:
		return nil, &tierlimit.FieldError{Field: "descriptors", Value: strconv.Itoa(len(descriptors)), Want: "1 to 64 descriptors"}
	}
	asked := make([]tierlimit.Request, len(descriptors))
	for i, d := range descriptors {
		var err error
		if asked[i], err = s.request(ctx, d, req.GetHitsAddend()); err != nil {
			var field *tierlimit.FieldError
			if errors.As(err, &field) {
				return nil, field.In("descriptors[" + strconv.Itoa(i) + "]")
			}
			return nil, err
		}
	}
	decisions, errs := make([]tierlimit.Decision, len(asked)), make([]error, len(asked))
	var wg sync.WaitGroup
	for i := range asked[1:] { // together, so that their charges travel together
		wg.Go(func() { decisions[i+1], errs[i+1] = s.take(ctx, asked[i+1]) })
	}
	decisions[0], errs[0] = s.take(ctx, asked[0])
	wg.Wait()
	answer := &ratelimitv3.RateLimitResponse{
		OverallCode: ratelimitv3.RateLimitResponse_OK,
		Statuses:    make([]*ratelimitv3.RateLimitResponse_DescriptorStatus, len(asked)),
	}
	header, plain := make(http.Header), false
	for i := range decisions {
		d := &decisions[i]
		if errs[i] != nil {
			if field := new(tierlimit.FieldError); errors.As(errs[i], &field) {
				return nil, field.In("descriptors[" + strconv.Itoa(i) + "]")
			}
			s.log.Debug("grpc: decided without the store", "tier", d.Tier, "allowed", d.Allowed, "error", errs[i])
		}
		if answer.Statuses[i] = statusFor(d); !d.Allowed {
			answer.OverallCode = ratelimitv3.RateLimitResponse_OVER_LIMIT
		}
		httplimit.SetHeaders(header, d, s.legacy)
		plain = plain || !d.Allowed && d.Denials == tierlimit.DenialsPlain
	}
	if plain {
		httplimit.DeleteHeaders(header)
	}
	answer.ResponseHeadersToAdd = headerValues(header)
	return answer, nil
}

// take charges req. A cost of 0 asks whether a cost of 1 would be denied.
func (s *rateLimits) take(ctx context.Context, req tierlimit.Request) (d tierlimit.Decision, err error) {
	defer func() { // it may run in a goroutine of its own
		if cause := recover(); cause != nil {
			s.log.Error("grpc: panic", "cause", cause, "stack", string(debug.Stack()))
			err = &tierlimit.FieldError{Field: "request", Want: "one that can be decided: the server has failed"}
		}
	}()
	if req.Cost == 0 {
		return s.lim.Peek(ctx, req)
	}
	return s.lim.Take(ctx, req)
}

// request returns the request to the limiter for a descriptor, or an error if it is malformed: no
// descriptor is charged if another one is. hits is the request's hits_addend.
func (s *rateLimits) request(ctx context.Context, d *ratelimitcommonv3.RateLimitDescriptor, hits uint32) (req tierlimit.Request, err error) {
	req.Cost = 1
	var subject, key, address string
	for _, e := range d.GetEntries() {
		switch value := e.GetValue(); e.GetKey() {
		case s.entries.Subject:
			subject = value
		case s.entries.APIKey:
			key = value
		case s.entries.Address:
			address = value
		case s.entries.Scope:
			req.Scope = value
		case s.entries.Cost:
			if req.Cost, err = strconv.ParseInt(value, 10, 64); err != nil {
				return req, &tierlimit.FieldError{Field: s.entries.Cost, Value: value, Want: tierlimit.CostRule}
			}
		}
	}
	if hits > 0 {
		req.Cost = int64(hits)
	}
	if own := d.GetHitsAddend(); own != nil {
		if own.GetValue() > uint64(tierlimit.MaxCount) {
			return req, &tierlimit.FieldError{Field: "hits_addend", Value: strconv.FormatUint(own.GetValue(), 10), Want: tierlimit.CostRule}
		}
		req.Cost = int64(own.GetValue()) //nolint:gosec // at most MaxCount
	}
	switch {
	case req.Scope != "" && !tierlimit.ValidName(req.Scope):
		return req, &tierlimit.FieldError{Field: s.entries.Scope, Value: req.Scope, Want: tierlimit.NameRule}
	case req.Cost < 0 || req.Cost > tierlimit.MaxCount:
		return req, &tierlimit.FieldError{Field: s.entries.Cost, Value: strconv.FormatInt(req.Cost, 10), Want: tierlimit.CostRule}
	}
	if d.GetIsNegativeHits() {
		return req, &tierlimit.FieldError{Field: "is_negative_hits", Value: "true", Want: "false: only a hold can be given back; see /v1/settle"}
	}
	req.Subject, err = s.subject(ctx, subject, key, address)
	if err == nil && !tierlimit.ValidSubject(req.Subject) {
		err = &tierlimit.FieldError{Field: s.entries.Subject, Value: req.Subject, Want: tierlimit.SubjectRule}
	}
	return req, err
}

// subject returns the subject of a descriptor: the given subject, else the owner of the API key, else
// the subject of the address.
func (s *rateLimits) subject(ctx context.Context, subject, key, address string) (string, error) {
	if subject != "" {
		return subject, nil
	}
	if key != "" {
		r := (&http.Request{Header: http.Header{keyHeader: {key}}}).WithContext(ctx)
		if owner, err := s.byKey(r); owner != "" || err != nil {
			return owner, err
		}
	}
	if address != "" {
		client, err := s.byAddr(&http.Request{RemoteAddr: address})
		if client == "" && err == nil {
			err = &tierlimit.FieldError{Field: s.entries.Address, Value: address, Want: "an IP address"}
		}
		return client, err
	}
	if key != "" {
		return UnknownKey, nil
	}
	return "", &tierlimit.FieldError{
		Field: "entries", Want: "with one of " + s.entries.Subject + ", " + s.entries.APIKey + " and " + s.entries.Address + ": they say who is asking",
	}
}

// statusFor returns the status of a descriptor.
func statusFor(d *tierlimit.Decision) *ratelimitv3.RateLimitResponse_DescriptorStatus {
	status := &ratelimitv3.RateLimitResponse_DescriptorStatus{
		Code: ratelimitv3.RateLimitResponse_OK, LimitRemaining: math.MaxUint32, DurationUntilReset: durationpb.New(0),
	}
	if !d.Allowed {
		status.Code = ratelimitv3.RateLimitResponse_OVER_LIMIT
		status.LimitRemaining = 0
		status.DurationUntilReset = durationpb.New(d.RetryAfter)
	}
	w := d.Binding()
	if w == nil || !d.Allowed && d.Denials == tierlimit.DenialsPlain {
		return status
	}
	status.LimitRemaining = clamp(w.Remaining)
	status.DurationUntilReset = durationpb.New(w.Reset)
	if unit := unitOf(w.Window); unit != ratelimitv3.RateLimitResponse_RateLimit_UNKNOWN {
		status.CurrentLimit = &ratelimitv3.RateLimitResponse_RateLimit{Name: w.Limit, RequestsPerUnit: clamp(w.EffectiveMax), Unit: unit}
	}
	return status
}

func clamp(n int64) uint32 { return uint32(min(max(n, 0), math.MaxUint32)) }

// unitOf returns the unit of a window, UNKNOWN if the protocol has none.
func unitOf(w tierlimit.Window) ratelimitv3.RateLimitResponse_RateLimit_Unit {
	switch w.Period {
	case tierlimit.Day:
		return ratelimitv3.RateLimitResponse_RateLimit_DAY
	case tierlimit.Week:
		return ratelimitv3.RateLimitResponse_RateLimit_WEEK
	case tierlimit.Month:
		return ratelimitv3.RateLimitResponse_RateLimit_MONTH
	}
	switch w.Length {
	case time.Second:
		return ratelimitv3.RateLimitResponse_RateLimit_SECOND
	case time.Minute:
		return ratelimitv3.RateLimitResponse_RateLimit_MINUTE
	case time.Hour:
		return ratelimitv3.RateLimitResponse_RateLimit_HOUR
	case 24 * time.Hour:
		return ratelimitv3.RateLimitResponse_RateLimit_DAY
	case 7 * 24 * time.Hour:
		return ratelimitv3.RateLimitResponse_RateLimit_WEEK
	}
	return ratelimitv3.RateLimitResponse_RateLimit_UNKNOWN
}
