# The commands of a developer's day. `make help` lists them.

GO ?= go
BIN := bin/tierlimit
GOLANGCI_LINT := $(GO) run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
GOFUMPT := $(GO) run mvdan.cc/gofumpt@v0.12.0

# The race detector needs a C compiler; a machine that has only Go tests without.
RACE ?= $(if $(shell command -v gcc),-race)

.DEFAULT_GOAL := help
.PHONY: help run build image chart test unit integration alerts peers faults start usage soak fuzz canaries mutants lint format bench overload microbench screenshots clean

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: build ## build and start tierlimit dev: everything in one process (ARGS="--load-fixed 0.95")
	$(BIN) dev $(ARGS)

build: ## build bin/tierlimit
	$(GO) build -trimpath -ldflags='-s -w' -o $(BIN) ./cmd/tierlimit

image: ## build the container image tierlimit:dev (VERSION=v1.2.3)
	deploy/image $(or $(VERSION),dev) bin/image tierlimit:$(or $(VERSION),dev)

chart: ## pass the tests of the Helm chart
	cd deploy/helm && GOWORK=off $(GO) test -count=1 ./...

test: unit integration ## pass every test, on real Redis and Postgres

unit: ## pass the tests that need no server
	$(GO) test $(RACE) ./...

integration: ## pass the tests on real servers: Docker where it answers, else local processes
	env="$$(integration/prepare pgbouncer nginx caddy haproxy prometheus chromium axe-core)" && eval "$$env" && $(GO) test $(RACE) -count=1 -timeout=30m ./integration/...

alerts: ## test the alert rules, with days of burn rates
	env="$$(TEST_SERVERS=local integration/prepare prometheus)" && eval "$$env" && $(GO) test -count=1 -run='^TestAlertsFire$$' ./integration -args -burn-rates

peers: ## compare answers with Envoy's own rate limit service, which is built at the first run
	env="$$(TEST_SERVERS=local integration/prepare)" && eval "$$env" && $(GO) test -tags peers -count=1 -run='^TestPeers' ./integration

faults: ## let everything fail that may, and print what was promised and measured: docs/faults.md (SEED=1)
	env="$$(TEST_SERVERS=local integration/prepare)" && eval "$$env" && \
	$(GO) test -count=1 -timeout=40m -run='FaultMatrix|Linearizable|AtMostOnce|MadeUpSubjects' ./integration \
		-args -on-time -matrix="$(CURDIR)/docs/faults.md" -histories=700 -lost=10000 -madeup=1000000 -seed=$(or $(SEED),1); \
	status=$$?; cat docs/faults.md; exit $$status

start: ## measure a replica's start with a million subjects in Postgres
	env="$$(TEST_SERVERS=local integration/prepare)" && eval "$$env" && \
	$(GO) test -count=1 -timeout=20m -run=NONE -bench='^BenchmarkStart$$' -benchtime=3x ./integration

usage: ## measure what the usage of long windows costs Postgres
	env="$$(TEST_SERVERS=local integration/prepare)" && eval "$$env" && \
	$(GO) test -count=1 -timeout=20m -run=NONE -bench='^BenchmarkUsageInPostgres$$' -benchtime=1x ./integration

soak: ## put a steady load on three replicas for ten minutes, a fault every minute: docs/soak.md (ARGS="-h")
	env="$$(TEST_SERVERS=local integration/prepare)" && eval "$$env" && $(GO) run ./integration/soak -o docs/soak.md $(ARGS)

fuzz: ## let each fuzz target look for what breaks it (FUZZTIME=20s)
	@set -e; for dir in . ./api ./cmd/tierlimit ./httplimit ./store/redisstore; do \
		for target in $$($(GO) test -list '^Fuzz' $$dir | grep '^Fuzz'); do \
			echo "$$dir $$target"; \
			said=$$($(GO) test -run=NONE -fuzz="^$$target$$" -fuzztime=$(or $(FUZZTIME),20s) $$dir) || { echo "$$said"; exit 1; }; \
		done; \
	done

canaries: ## put known defects in, one by one, and show the test that sees each (ARGS="-only breaker")
	env="$$(TEST_SERVERS=local integration/prepare)" && eval "$$env" && $(GO) run ./integration/mutants $(ARGS) integration/mutants/canaries.txt

mutants: ## put small mistakes in, one by one, and show how many the tests see: at least 85 of 100
	$(GO) run ./integration/mutants -rate 0.85 $(ARGS) integration/mutants/mutants.txt

lint: ## pass the linters
	$(GO) vet ./... ./integration/...
	cd deploy/helm && GOWORK=off $(GO) vet ./...
	cd integration/overload && GOWORK=off GOOS=linux $(GO) vet ./...
	$(GOLANGCI_LINT) run ./... ./integration/...
	test -z "$$($(GOFUMPT) -l .)" || { $(GOFUMPT) -d .; exit 1; }

format: ## format the Go files
	$(GOFUMPT) -w .

bench: ## measure decisions beside what one would import instead, and write docs/benchmarks.md (ARGS="-h")
	env="$$(TEST_SERVERS=local integration/prepare wrk)" && eval "$$env" && $(GO) run ./integration/bench -o docs $(ARGS)

overload: ## measure what sheds load, beside what one would import instead, and write docs/overload.md (ARGS="-quick")
	cd integration/overload && GOWORK=off $(GO) run . -o "$(CURDIR)/docs" $(ARGS)

microbench: ## measure what a decision costs by itself, in memory and on Redis
	env="$$(integration/prepare)" && eval "$$env" && \
	$(GO) test -run=NONE -bench=. -benchmem -count=$(or $(COUNT),3) ./ ./store/... ./api/ ./httplimit/ ./integration/

screenshots: ## write pictures of the console, of a replica with customers, into docs/images (ARGS="-all")
	env="$$(TEST_SERVERS=local integration/prepare chromium)" && eval "$$env" && $(GO) run ./integration/screenshots -o docs/images $(ARGS)

clean: ## remove what was built
	rm -rf bin
