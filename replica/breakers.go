package replica

import (
	"maps"
	"sync"
)

// breakers keeps which circuit breakers are open. It is safe for concurrent use.
type breakers struct {
	mu   sync.Mutex
	open map[string]bool // by server; a server that never failed is missing
}

// changed is a redisstore.Config.OnChange.
func (b *breakers) changed(server string, open bool, _ error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.open == nil {
		b.open = make(map[string]bool)
	}
	b.open[server] = open
}

func (b *breakers) all() map[string]bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return maps.Clone(b.open)
}
