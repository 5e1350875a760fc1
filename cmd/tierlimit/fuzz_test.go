package main

import (
	"encoding/json"
	"errors"
	"log/slog"
	"reflect"
	"testing"

	"github.com/spf13/pflag"

	"github.com/tierlimit/tierlimit"
)

// Whatever stands in the environment: it is accepted, or named and refused, and a
// secret is never in what is said of it.
func FuzzConfiguration(f *testing.F) {
	f.Fuzz(func(t *testing.T, redisURL, databaseURL, proxies, budget, addr, mode string) {
		const secret = "correct-horse-battery"
		env := map[string]string{
			"TIERLIMIT_REDIS_URL": redisURL, "TIERLIMIT_DATABASE_URL": databaseURL, "TIERLIMIT_TRUSTED_PROXIES": proxies,
			"TIERLIMIT_BUDGET": budget, "TIERLIMIT_ADDR": addr, "TIERLIMIT_REDIS_MODE": mode, "TIERLIMIT_ADMIN_TOKEN": secret,
		}
		var set settings
		opts := set.serve()
		fs := pflag.NewFlagSet("serve", pflag.ContinueOnError)
		opts.flags(fs)
		err := opts.resolve(fs, func(name string) (string, bool) { v, ok := env[name]; return v, ok })
		if err == nil {
			cfg, err := set.replica(slog.New(slog.DiscardHandler))
			if err == nil {
				err = inSettings(cfg.Validate())
			}
			if err == nil {
				return
			}
			if field := new(tierlimit.FieldError); !errors.As(err, &field) {
				t.Errorf("%v: names no field", err)
			}
			return
		}
		if field := new(tierlimit.FieldError); !errors.As(err, &field) || field.Field == "" || field.Want == "" {
			t.Errorf("%v: names no field, or not what is allowed", err)
		}
	})
}

// Whatever stands in a file of tiers: it is refused with a reason, or read; and what is
// read can be written, and is read again as the same.
func FuzzTierFile(f *testing.F) {
	f.Fuzz(func(t *testing.T, text []byte) {
		list, err := parseTiers(text)
		if err != nil {
			if err.Error() == "" {
				t.Error("refused without a reason")
			}
			return
		}
		written, err := json.Marshal(map[string]any{"tiers": list})
		if err != nil {
			t.Fatal(err)
		}
		again, err := parseTiers(written)
		if err != nil || !reflect.DeepEqual(list, again) {
			t.Errorf("%+v is read again as %+v, %v", list, again, err)
		}
	})
}
