package tierlimit_test

import (
	"context"
	"fmt"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/store/memstore"
	"github.com/tierlimit/tierlimit/tiers"
)

func ExampleLimiter_Take() {
	resolver, err := tiers.Static(tiers.Builtin(), func(subject string) string {
		if subject == "acct_42" {
			return "pro"
		}
		return "" // everybody else is on the default tier, free
	})
	if err != nil {
		panic(err)
	}
	lim, err := tierlimit.New(tierlimit.Config{Store: memstore.New(memstore.Config{}), Tiers: resolver})
	if err != nil {
		panic(err)
	}
	for i := range 6 {
		d, err := lim.Take(context.Background(), tierlimit.Request{Subject: "acct_7"})
		if err != nil {
			panic(err)
		}
		if i >= 4 {
			fmt.Println(d.Tier, d.Allowed, d.Reason)
		}
	}
	d, _ := lim.Take(context.Background(), tierlimit.Request{Subject: "acct_42", Cost: 60})
	fmt.Println(d.Tier, d.Allowed, d.Windows[0].Remaining)
	// Output:
	// free true ok
	// free false exceeded
	// pro true 40
}
