package replica_test

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/httplimit"
	"github.com/tierlimit/tierlimit/replica"
)

// A program that holds its clients to the plans in Postgres.
func Example() {
	r, err := replica.Open(context.Background(), replica.Config{
		Redis:    replica.Redis{URL: os.Getenv("TIERLIMIT_REDIS_URL")},
		Database: replica.Database{URL: os.Getenv("TIERLIMIT_DATABASE_URL")},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer r.Close()
	limit, err := r.Middleware(httplimit.Config{}) // by API key, else by address
	if err != nil {
		log.Fatal(err)
	}
	server := &http.Server{Addr: ":8080", ReadHeaderTimeout: 5 * time.Second}
	server.Handler = limit(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		d, _ := tierlimit.FromContext(req.Context())
		fmt.Fprintf(w, "hello %s on %s\n", d.Subject, d.Tier)
	}))
	// Close writes the last usage, so it must run when the program is told to stop.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	go func() {
		log.Print(server.ListenAndServe())
		stop()
	}()
	<-ctx.Done()
	_ = server.Shutdown(context.Background())
}
