package load

import "time"

// SetClock gives a controller another clock than time.Now.
func SetClock(cfg *Config, now func() time.Time) { cfg.now = now }
