package replica_test

import (
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/replica"
)

// libpq's defaults once stood in for a URL that was left out.
func TestADatabaseMustBeNamed(t *testing.T) {
	_, err := replica.Open(t.Context(), replica.Config{Redis: replica.Redis{URL: "redis://host"}})
	if wrong := new(tierlimit.FieldError); !errors.As(err, &wrong) || wrong.Field != "Database.URL" {
		t.Errorf("%v", err)
	}
}

func TestOpenNamesTheFieldThatIsWrong(t *testing.T) {
	for field, cfg := range map[string]replica.Config{
		"Redis.URL":        {Redis: replica.Redis{URL: "http://secret@host"}},
		"Budget":           {Redis: replica.Redis{URL: "redis://host"}, Budget: time.Minute},
		"LoadMode":         {Redis: replica.Redis{URL: "redis://host"}, LoadMode: "perhaps"},
		"Database.URL":     {Redis: replica.Redis{URL: "redis://host"}, Database: replica.Database{URL: "postgres://host/db?sslmode=bogus"}},
		"Redis.Mode":       {Redis: replica.Redis{URL: "redis://host", Mode: "many"}},
		"Database.Migrate": {Redis: replica.Redis{URL: "redis://host"}, Database: replica.Database{Migrate: "perhaps"}},
	} {
		cfg.Logger = slog.New(slog.DiscardHandler)
		_, opened := replica.Open(t.Context(), cfg)
		for _, err := range []error{cfg.Validate(), opened} {
			if wrong := new(tierlimit.FieldError); !errors.As(err, &wrong) || wrong.Field != field {
				t.Errorf("%v, want an error of %s", err, field)
			}
		}
	}
}
