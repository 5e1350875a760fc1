package main

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"os"

	"github.com/spf13/cobra"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/api"
	"github.com/tierlimit/tierlimit/events"
	"github.com/tierlimit/tierlimit/internal/listen"
	"github.com/tierlimit/tierlimit/load"
	"github.com/tierlimit/tierlimit/store/memstore"
	"github.com/tierlimit/tierlimit/tiers"
	"github.com/tierlimit/tierlimit/tiers/memtiers"
)

func devCommand(s streams) *cobra.Command {
	var set settings
	return set.dev().command(s, "dev", "Try it: everything in this process, nothing to install", func(ctx context.Context) error {
		return dev(ctx, &set, s, newLogger(&set, s.err))
	})
}

func dev(ctx context.Context, set *settings, s streams, log *slog.Logger) error {
	if err := set.requests(); err != nil {
		return usage(err)
	}
	catalogue, err := devCatalogue(set.dataFile)
	if err != nil {
		return err
	}
	l, err := set.listen(ctx, log)
	if err != nil {
		return err
	}
	defer l.close()
	cpu, err := load.New(load.Config{
		Tiers: devTiers(catalogue), Control: devControl(catalogue), Meter: set.loadMeter, Mode: set.devLoadMode(), Sources: set.loadSources, Logger: log,
	})
	if err != nil {
		return err
	}
	defer cpu.Close()
	m := newMetrics(log)
	spans, err := newTracing(set, log)
	if err != nil {
		return err
	}
	defer spans.close()
	messages, err := events.New(events.Config{Outbox: catalogue, Delivery: &set.webhooks, Logger: log})
	if err != nil {
		return err
	}
	lim, err := tierlimit.New(tierlimit.Config{
		Store: memstore.New(memstore.Config{}), Tiers: catalogue, Load: cpu, Observer: m.decisions, Trace: spans.decisions(), Crossed: messages.Crossed,
	})
	if err != nil {
		return err
	}
	messages.Start(lim.Usage)
	defer messages.Close()
	m.addMessages(messages)
	shown := "$TIERLIMIT_ADMIN_TOKEN" // a token that was given is not printed
	if len(set.adminTokens) == 0 {
		set.adminTokens = []string{"tl_dev_" + rand.Text()}
		shown = set.adminTokens[0]
	}
	cfg := api.Config{
		Limiter: lim, Catalogue: catalogue, Keyring: catalogue, Load: cpu,
		Tokens: api.NewTokens(set.adminTokens, nil), Open: true, Demo: true,
		Denials: m.denials, Who: set.who, Routes: set.routes, Logger: log,
	}
	warnOfScopes(set.routes, devTiers(catalogue)(), log)
	fmt.Fprint(s.out, welcome(set, baseURL(l.public.Addr(), l.secure), baseURL(l.admin.Addr(), l.secureAdmin), shown))
	if l.proxy != nil {
		fmt.Fprintf(s.out, "In front of %s, limited\n  curl -i %s/\n\n", set.upstream, baseURL(l.proxy.Addr(), l.secure))
	}
	return serveUntil(ctx, set, l, m, spans, cfg)
}

func devCatalogue(file string) (*memtiers.Catalogue, error) {
	if file == "" {
		return memtiers.New(tiers.Builtin())
	}
	return memtiers.Open(file, tiers.Builtin())
}

func devTiers(m *memtiers.Catalogue) func() []tiers.Tier {
	return func() []tiers.Tier {
		list, _ := m.Tiers(context.Background()) // memory does not fail
		return list
	}
}

func devControl(m *memtiers.Catalogue) func() tiers.LoadControl {
	return func() tiers.LoadControl {
		l, _ := m.LoadControl(context.Background()) // memory does not fail
		return l
	}
}

func baseURL(addr net.Addr, secure *tls.Config) string {
	switch {
	case addr.Network() == "unix":
		return listen.UnixPrefix + addr.String()
	case secure != nil:
		return "https://" + addr.String()
	}
	return "http://" + addr.String()
}

func welcome(set *settings, public, admin, token string) string {
	keeps := "all in memory, gone when it stops (keep tiers with --data FILE)"
	if set.dataFile != "" {
		keeps = "tiers and subjects in " + set.dataFile + ", counters in memory"
	}
	load := map[load.Mode]string{
		load.Off:     "limits do not heed the CPU",
		load.Observe: "limits do not heed the CPU (--load-mode enforce, or --load-fixed 0.95 to see it)",
		load.Enforce: "adaptive limits heed the CPU: see /v1/load",
	}[set.devLoadMode()]
	return fmt.Sprintf(`tierlimit dev: %[4]s

  public   %[1]s
  admin    %[2]s
  token    %[3]s
  console  %[2]s/console/
  load     %[5]s

See a limit: run this six times, the sixth answers 429 (free is 5 a minute)
  curl -i %[1]s/demo/data

Ask for a customer, put the customer on pro, ask again
  curl -d '{"subject":"acct_42"}' %[1]s/v1/take
  curl -H "Authorization: Bearer %[3]s" -d '{"id":"acct_42","tier":"pro"}' %[2]s/admin/v1/subjects

50 at once, from another terminal: exactly 5 allowed
  %[6]s bench -c 50 -n 50 %[1]s/v1/take --body '{"subject":"acct_7"}'

`, public, admin, token, keeps, load, os.Args[0])
}
