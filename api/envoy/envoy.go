// Package envoy serves Envoy over gRPC: the rate limit service (envoy.service.ratelimit.v3,
// ShouldRateLimit) and external authorization (envoy.service.auth.v3, Check), with the standard
// health service and reflection. docs/gateways/envoy.md shows Envoy's side.
//
// The services trust every caller: a caller may charge any subject. Listen on an address that only
// Envoy can reach, or require client certificates.
package envoy

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"runtime/debug"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/status"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/httplimit"
)

// DefaultBudget is the decision budget that suits the rate limit service: Envoy waits 20 ms by
// default, and then lets the request pass.
const DefaultBudget = 15 * time.Millisecond

// Config says how requests of Envoy are understood.
type Config struct {
	Entries Entries // of the rate limit service's descriptors
	// Limit says, for Check, who is asking and what a request costs. For the rate limit service,
	// its Who has the API keys and the size of IPv6 prefixes.
	Limit  httplimit.Config
	Logger *slog.Logger // default slog.Default
}

// A Limiter decides; *tierlimit.Limiter does. Its budget should be DefaultBudget.
type Limiter interface{ httplimit.Limiter }

// A Server serves both services. It is safe for concurrent use.
type Server struct {
	*grpc.Server
	health *health.Server
}

// Bounds on what a caller may take of the process.
const (
	maxStreams  = 1000
	maxIdle     = 15 * time.Minute
	minPing     = 5 * time.Second
	connectTime = 5 * time.Second
	maxGraceful = 5 * time.Second
)

// NewServer returns a Server that decides with lim. options, such as grpc.Creds, are added to its
// own. An error is a *tierlimit.FieldError or joins several.
func NewServer(lim Limiter, cfg Config, options ...grpc.ServerOption) (*Server, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.Limit.Logger == nil {
		cfg.Limit.Logger = cfg.Logger
	}
	limits, err := newRateLimits(lim, &cfg)
	if err != nil {
		return nil, err
	}
	gate, err := httplimit.NewGate(lim, cfg.Limit)
	if err != nil {
		return nil, err
	}
	s := &Server{health: health.NewServer()}
	s.Server = grpc.NewServer(append([]grpc.ServerOption{
		grpc.MaxConcurrentStreams(maxStreams), grpc.ConnectionTimeout(connectTime),
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionIdle: maxIdle}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: minPing, PermitWithoutStream: true}),
		grpc.ChainUnaryInterceptor(recoverPanics(cfg.Logger)),
	}, options...)...)
	ratelimitv3.RegisterRateLimitServiceServer(s, limits)
	authv3.RegisterAuthorizationServer(s, &authorization{gate: gate})
	healthv1.RegisterHealthServer(s, s.health)
	reflection.Register(s)
	return s, nil
}

// Drain has the health service answer NOT_SERVING, so that no new requests are sent here.
func (s *Server) Drain() { s.health.Shutdown() }

// Shutdown waits until the requests under way are answered, at most 5 s or until ctx ends. Streams,
// which clients of the health service keep open, end then.
func (s *Server) Shutdown(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, maxGraceful)
	defer cancel()
	stop := context.AfterFunc(ctx, s.Stop)
	defer stop()
	s.GracefulStop()
	return nil
}

func recoverPanics(log *slog.Logger) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (answer any, err error) {
		defer func() {
			if cause := recover(); cause != nil {
				log.Error("grpc: panic", "method", info.FullMethod, "cause", cause, "stack", string(debug.Stack()))
				err = status.Error(codes.Internal, "internal error")
			}
		}()
		return handler(ctx, req)
	}
}

// statusOf returns the gRPC status of a request that cannot be decided.
func statusOf(err error) error {
	var field *tierlimit.FieldError
	if errors.As(err, &field) {
		return status.Error(codes.InvalidArgument, field.Error())
	}
	return status.Error(codes.Unavailable, "it could not be established who is asking")
}

// headerValues returns h as Envoy takes headers.
func headerValues(h http.Header) []*corev3.HeaderValue {
	list := make([]*corev3.HeaderValue, 0, len(h))
	for name, values := range h {
		for _, value := range values {
			list = append(list, &corev3.HeaderValue{Key: name, Value: value})
		}
	}
	return list
}
