package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"net"

	"github.com/spf13/cobra"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/api"
	"github.com/tierlimit/tierlimit/load"
	"github.com/tierlimit/tierlimit/store/memstore"
	"github.com/tierlimit/tierlimit/tiers"
)

func devCommand(s streams) *cobra.Command {
	var set settings
	opts := set.dev()
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Try it: everything in this process, nothing to install",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := opts.resolve(cmd.Flags(), s.env); err != nil {
				return usage(err)
			}
			return dev(cmd.Context(), &set, s, newLogger(&set, s.err))
		},
	}
	opts.flags(cmd.Flags())
	return cmd
}

func dev(ctx context.Context, set *settings, s streams, log *slog.Logger) error {
	catalogue, err := devCatalogue(set.dataFile)
	if err != nil {
		return err
	}
	l, err := listen(ctx, set)
	if err != nil {
		return err
	}
	cpu, err := load.New(load.Config{Tiers: devTiers(catalogue), Meter: set.loadMeter, Mode: set.loadMode, Logger: log})
	if err != nil {
		return err
	}
	defer cpu.Close()
	lim, err := tierlimit.New(tierlimit.Config{Store: memstore.New(memstore.Config{}), Tiers: catalogue, Load: cpu})
	if err != nil {
		return err
	}
	if set.adminToken == "" {
		set.adminToken = "tl_dev_" + rand.Text()
	}
	fmt.Fprint(s.out, welcome(baseURL(l.public.Addr()), baseURL(l.admin.Addr()), set.adminToken))
	return serveUntil(ctx, l, api.Config{
		Limiter: lim, Catalogue: catalogue, Load: cpu,
		AdminToken: set.adminToken, Open: true, Demo: true,
		TrustedProxies: set.trustedProxies, Logger: log,
	})
}

func devCatalogue(file string) (*tiers.Memory, error) {
	if file == "" {
		return tiers.NewMemory(tiers.Builtin())
	}
	return tiers.OpenMemory(file, tiers.Builtin())
}

func devTiers(m *tiers.Memory) func() []tiers.Tier {
	return func() []tiers.Tier {
		list, _ := m.Tiers(context.Background()) // memory does not fail
		return list
	}
}

func baseURL(addr net.Addr) string { return "http://" + addr.String() }

func welcome(public, admin, token string) string {
	return fmt.Sprintf(`tierlimit dev: all in memory, gone when it stops (keep tiers with --data FILE)

  public   %[1]s
  admin    %[2]s
  token    %[3]s

See a limit: run this six times, the sixth answers 429 (free is 5 a minute)
  curl -i %[1]s/demo/data

Ask for a customer, move the customer to pro, ask again
  curl -d '{"subject":"acct_42"}' %[1]s/v1/take
  curl -H 'Authorization: Bearer %[3]s' -d '{"id":"acct_42","tier":"pro"}' %[2]s/admin/v1/subjects

50 at once, from another terminal, in a fresh minute: exactly 5 allowed
  tierlimit bench -c 50 -n 50 %[1]s/demo/data

`, public, admin, token)
}
