package envoy

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/httplimit"
	"github.com/tierlimit/tierlimit/internal/problem"
)

// authorization is the external authorization service: /v1/check over gRPC.
type authorization struct {
	authv3.UnimplementedAuthorizationServer
	gate *httplimit.Gate
}

// Check decides about the HTTP request in req. Who is asking and what the request costs follow
// Config.Limit, with the source address of req as the peer.
func (a *authorization) Check(ctx context.Context, req *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	w := &recorder{header: make(http.Header)}
	r, err := requestOf(ctx, req.GetAttributes())
	var field *tierlimit.FieldError
	switch {
	case errors.As(err, &field):
		// Envoy lets a request pass for which it gets an error, if it is told so. A client chooses
		// its path.
		problem.Write(w, problem.Problem{
			Status: http.StatusBadRequest, Detail: "The request cannot be limited.",
			Errors: []problem.Field{{Field: field.Field, Detail: field.Error()}},
		})
	case err != nil:
		return nil, status.Error(codes.InvalidArgument, err.Error())
	default:
		a.gate.Check(w, r, http.StatusOK)
	}
	options := make([]*corev3.HeaderValueOption, 0, len(w.header))
	for _, value := range headerValues(w.header) {
		options = append(options, &corev3.HeaderValueOption{
			Header: value, AppendAction: corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD,
		})
	}
	if w.status == http.StatusOK {
		return &authv3.CheckResponse{
			Status:       &rpcstatus.Status{Code: int32(codes.OK)},
			HttpResponse: &authv3.CheckResponse_OkResponse{OkResponse: &authv3.OkHttpResponse{ResponseHeadersToAdd: options}},
		}, nil
	}
	return &authv3.CheckResponse{
		Status: &rpcstatus.Status{Code: int32(codes.PermissionDenied), Message: "denied with status " + strconv.Itoa(w.status)},
		HttpResponse: &authv3.CheckResponse_DeniedResponse{DeniedResponse: &authv3.DeniedHttpResponse{
			Status:  &typev3.HttpStatus{Code: typev3.StatusCode(w.status)}, //nolint:gosec // a status of HTTP
			Headers: options, Body: w.body.String(),
		}},
	}, nil
}

// requestOf returns the HTTP request that attributes describe. A *tierlimit.FieldError is the
// client's.
func requestOf(ctx context.Context, attributes *authv3.AttributeContext) (*http.Request, error) {
	asked := attributes.GetRequest().GetHttp()
	if asked == nil {
		return nil, errors.New("attributes.request.http: must be given")
	}
	path := asked.GetPath()
	if path == "" { // of CONNECT
		path = "/"
	}
	target, err := url.ParseRequestURI(path)
	if err != nil {
		return nil, &tierlimit.FieldError{Field: "path", Value: path, Want: "the path and query of a request"}
	}
	header := make(http.Header, len(asked.GetHeaders()))
	for name, value := range asked.GetHeaders() {
		if !strings.HasPrefix(name, ":") {
			header.Add(name, value)
		}
	}
	for _, raw := range asked.GetHeaderMap().GetHeaders() { // with encode_raw_headers, in the place of headers
		if value := raw.GetRawValue(); !strings.HasPrefix(raw.GetKey(), ":") {
			header.Add(raw.GetKey(), string(value)+raw.GetValue())
		}
	}
	r := &http.Request{
		Method: asked.GetMethod(), URL: target, RequestURI: path, Host: asked.GetHost(),
		Proto: asked.GetProtocol(), Header: header, Body: http.NoBody,
	}
	switch source := attributes.GetSource().GetAddress(); {
	case source.GetSocketAddress() != nil:
		peer := source.GetSocketAddress()
		r.RemoteAddr = net.JoinHostPort(peer.GetAddress(), strconv.FormatUint(uint64(peer.GetPortValue()), 10))
	case source.GetPipe() != nil:
		r.RemoteAddr = "@" // as net/http names the peer of a unix socket
	default:
		r.RemoteAddr = "unknown"
	}
	return r.WithContext(ctx), nil
}

// A recorder is a ResponseWriter that keeps the response.
type recorder struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (w *recorder) Header() http.Header { return w.header }

func (w *recorder) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
}

func (w *recorder) Write(b []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	return w.body.Write(b)
}
