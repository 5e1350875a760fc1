package integration

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"github.com/gin-gonic/gin"
	"github.com/labstack/echo/v4"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/httplimit"
	"github.com/tierlimit/tierlimit/store/memstore"
	"github.com/tierlimit/tierlimit/tiers"
)

// limitGin returns limit as a middleware of gin.
func limitGin(limit func(http.Handler) http.Handler) gin.HandlerFunc {
	return func(c *gin.Context) {
		passed := false
		limit(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			passed = true
			through := &ginWriter{ResponseWriter: c.Writer, w: w}
			c.Request, c.Writer = r, through
			c.Next()
			through.commit()
		})).ServeHTTP(c.Writer, c.Request)
		if !passed {
			c.Abort()
		}
	}
}

// A ginWriter writes a response of gin through w, which sees its status.
type ginWriter struct {
	gin.ResponseWriter
	w         http.ResponseWriter
	committed bool
}

func (g *ginWriter) commit() {
	if !g.committed {
		g.committed = true
		g.w.WriteHeader(g.Status())
	}
}

func (g *ginWriter) WriteHeaderNow() { g.commit(); g.ResponseWriter.WriteHeaderNow() }

func (g *ginWriter) Write(b []byte) (int, error) { g.commit(); return g.w.Write(b) }

func (g *ginWriter) WriteString(s string) (int, error) { g.commit(); return io.WriteString(g.w, s) }

// limitEcho returns limit as a middleware of echo. It handles the errors of handlers itself, so
// that limit sees their status.
func limitEcho(limit func(http.Handler) http.Handler) echo.MiddlewareFunc {
	wrapped := echo.WrapMiddleware(limit)
	return func(next echo.HandlerFunc) echo.HandlerFunc {
		return wrapped(func(c echo.Context) error {
			if err := next(c); err != nil {
				c.Error(err)
			}
			return nil
		})
	}
}

// limitOfFive returns a middleware that allows 5 a minute and gives back what fails.
func limitOfFive(t *testing.T) func(http.Handler) http.Handler {
	t.Helper()
	resolver, err := tiers.Static(tiers.Builtin(), nil)
	must(t, err)
	lim, err := tierlimit.New(tierlimit.Config{Store: memstore.New(memstore.Config{}), Tiers: resolver})
	must(t, err)
	limit, err := httplimit.New(lim, httplimit.Config{Settle: httplimit.GiveBackOn5xx})
	must(t, err)
	return limit
}

// The adapters that docs/middleware.md prints are the ones above.
func TestFrameworksHoldClientsToTheirPlans(t *testing.T) {
	page, err := os.ReadFile("../docs/middleware.md")
	must(t, err)
	source, err := os.ReadFile("frameworks_test.go")
	must(t, err)
	blocks := strings.Split(string(page), "```go\n")[1:]
	if len(blocks) != 2 {
		t.Fatalf("%d programs on the page", len(blocks))
	}
	for _, block := range blocks {
		if code, _, _ := strings.Cut(block, "```"); !strings.Contains(string(source), code) {
			t.Errorf("the page has code that is not tested:\n%s", code)
		}
	}

	gin.SetMode(gin.ReleaseMode)
	g := gin.New()
	g.Use(limitGin(limitOfFive(t)))
	g.GET("/ok", func(c *gin.Context) {
		d, _ := tierlimit.FromContext(c.Request.Context())
		c.String(http.StatusOK, d.Tier)
	})
	g.GET("/empty", func(c *gin.Context) { c.Status(http.StatusNoContent) })
	g.GET("/fails", func(c *gin.Context) { c.AbortWithStatus(http.StatusInternalServerError) })
	g.GET("/fails/with-body", func(c *gin.Context) { c.String(http.StatusBadGateway, "no") })

	e := echo.New()
	e.Use(limitEcho(limitOfFive(t)))
	e.GET("/ok", func(c echo.Context) error {
		d, _ := tierlimit.FromContext(c.Request().Context())
		return c.String(http.StatusOK, d.Tier)
	})
	e.GET("/empty", func(c echo.Context) error { return c.NoContent(http.StatusNoContent) })
	e.GET("/fails", func(echo.Context) error { return echo.ErrInternalServerError })
	e.GET("/fails/with-body", func(c echo.Context) error { return c.String(http.StatusBadGateway, "no") })

	for name, handler := range map[string]http.Handler{"gin": g, "echo": e} {
		ask := func(path string) *httptest.ResponseRecorder {
			w := httptest.NewRecorder()
			handler.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil))
			return w
		}
		for range 10 { // given back each time
			if w := ask("/fails"); w.Code != http.StatusInternalServerError {
				t.Fatalf("%s: %d", name, w.Code)
			}
			if w := ask("/fails/with-body"); w.Code != http.StatusBadGateway || w.Body.String() != "no" {
				t.Fatalf("%s: %d %s", name, w.Code, w.Body)
			}
		}
		for range 4 {
			if w := ask("/ok"); w.Code != http.StatusOK || w.Body.String() != "free" || w.Header().Get("RateLimit") == "" {
				t.Errorf("%s: %d %v %s", name, w.Code, w.Header(), w.Body)
			}
		}
		if w := ask("/empty"); w.Code != http.StatusNoContent {
			t.Errorf("%s: %d", name, w.Code)
		}
		if w := ask("/ok"); w.Code != http.StatusTooManyRequests || w.Header().Get("Retry-After") == "" || !strings.Contains(w.Body.String(), "quota-exceeded") {
			t.Errorf("%s: %d %v %s", name, w.Code, w.Header(), w.Body)
		}
	}
}
