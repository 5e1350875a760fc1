package integration

import (
	"os/exec"
	"strings"
	"testing"
)

// What somebody who imports one package gets into their binary.
func TestImportersInheritOnlyWhatTheyUse(t *testing.T) {
	const module = "github.com/tierlimit/tierlimit"
	for pkg, allowed := range map[string][]string{
		"":                  nil,
		"/window":           nil,
		"/scripts":          nil,
		"/store/memstore":   nil,
		"/httplimit":        {"github.com/felixge/httpsnoop"}, // preserves a ResponseWriter's interfaces; no dependencies
		"/store/redisstore": {"github.com/redis/go-redis/", "github.com/cespare/xxhash/", "github.com/zeebo/xxh3", "github.com/klauspost/cpuid/", "go.uber.org/atomic", "golang.org/x/sys/"},
		"/tiers":            nil,
		"/load":             {"github.com/shirou/gopsutil/", "golang.org/x/sys/", "github.com/tklauser/", "github.com/lufia/plan9stats", "github.com/power-devops/perfstat", "github.com/yusufpapurcu/wmi", "github.com/go-ole/go-ole"},
		"/load/guard":       nil,
		"/observe":          nil,
		"/proxy":            {"github.com/felixge/httpsnoop"},
	} {
		out, err := exec.Command("go", "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", module+pkg).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		for _, dep := range strings.Fields(string(out)) {
			ours := dep == module || strings.HasPrefix(dep, module+"/")
			for _, prefix := range allowed {
				ours = ours || strings.HasPrefix(dep, prefix)
			}
			if !ours {
				t.Errorf("%s%s brings %s", module, pkg, dep)
			}
		}
	}
}
