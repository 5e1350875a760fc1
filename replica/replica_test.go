package replica_test

import (
	"errors"
	"log/slog"
	"testing"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/replica"
)

func TestOpenNamesTheFieldThatIsWrong(t *testing.T) {
	for field, cfg := range map[string]replica.Config{
		"Redis.URL":        {Redis: replica.Redis{URL: "http://secret@host"}},
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
