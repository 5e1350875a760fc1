package main

// A query is a line of a panel. In expr, {} stands for the selector of the chosen replicas: write
// it after the name of a metric, and {, before further labels: up{,pool="admin"}.
type query struct{ expr, legend string }

// A graph describes a panel.
type graph struct {
	title, description, unit string
	queries                  []query
	stack                    bool    // lines are stacked
	negative                 bool    // values may be below 0
	max                      float64 // of the axis; 0: as the data is
	warn                     float64 // a stat is red from here; 0: never
}

// A section is a row of the dashboard and the panels below it.
type section struct {
	title  string
	stats  []graph // small panels with one number
	graphs []graph
}

var sections = []section{
	{
		title: "Overview",
		stats: []graph{
			{
				title: "Decisions a second", unit: "reqps", description: "Decisions in a second, peeks included.",
				queries: []query{{`sum(rate(tierlimit_decisions_total{}[$__rate_interval]))`, "decisions"}},
			},
			{
				title: "Denied", unit: "percentunit", description: "The part of decisions that were denied. A denial is an answer, not an error.",
				queries: []query{{`(sum(rate(tierlimit_decisions_total{,outcome="denied"}[$__rate_interval])) or vector(0)) / sum(rate(tierlimit_decisions_total{}[$__rate_interval]))`, "denied"}},
			},
			{
				title: "Degraded", unit: "percentunit", warn: .001, description: "The part of decisions that were not counted in Redis, or were made on the default tier because the subject's tier was not known in time.",
				queries: []query{{`(sum(rate(tierlimit_degraded_total{}[$__rate_interval])) or vector(0)) / sum(rate(tierlimit_decisions_total{}[$__rate_interval]))`, "degraded"}},
			},
			{
				title: "p99 in Redis", unit: "s", warn: .05, description: "99 of 100 decisions that Redis counted took at most this long.",
				queries: []query{{`histogram_quantile(0.99, sum by (le) (rate(tierlimit_decision_duration_seconds_bucket{,source="redis"}[$__rate_interval])))`, "p99"}},
			},
			{
				title: "Breakers open", unit: "none", warn: 1, description: "Pairs of a replica and a Redis server that the replica does not call. A server that never failed has no series.",
				queries: []query{{`sum(tierlimit_breaker_open{}) or vector(0)`, "open"}},
			},
			{
				title: "Replicas", unit: "none", description: "Replicas that Prometheus has scraped.",
				queries: []query{{`count(tierlimit_build_info{})`, "replicas"}},
			},
		},
	},
	{
		title: "Decisions",
		graphs: []graph{
			{
				title: "Decisions by outcome and reason", unit: "reqps", stack: true, description: "peeked: nothing was to be charged. store_down: the tier's on_store_error answered.",
				queries: []query{{`sum by (outcome, reason) (rate(tierlimit_decisions_total{}[$__rate_interval]))`, "{{outcome}}: {{reason}}"}},
			},
			{
				title: "Decisions by source", unit: "reqps", stack: true, description: "redis: counted in Redis. deny_cache: a denial of a moment ago, from memory. memory: counted by the replica alone. policy: nothing was counted.",
				queries: []query{{`sum by (source) (rate(tierlimit_decisions_total{}[$__rate_interval]))`, "{{source}}"}},
			},
			{
				title: "Degraded by cause", unit: "reqps", stack: true, description: "store_unavailable: Redis did not answer in time. overloaded: this replica read the answer too late. tier_unknown: the subject was not looked up in time. store_refused: Redis refused. no_plan: there is no default tier.",
				queries: []query{{`sum by (cause, policy) (rate(tierlimit_degraded_total{}[$__rate_interval]))`, "{{cause}}, policy {{policy}}"}},
			},
			{
				title: "Decisions by tier", unit: "reqps", stack: true, description: "The tier other stands for all tiers and scopes beyond the first 200.",
				queries: []query{{`sum by (tier) (rate(tierlimit_decisions_total{}[$__rate_interval]))`, "{{tier}}"}},
			},
			{
				title: "Duration by source, p50 and p99", unit: "s", description: "All decisions that asked Redis are measured, and one of 16 of the others that were allowed.",
				queries: []query{
					{`histogram_quantile(0.5, sum by (le, source) (rate(tierlimit_decision_duration_seconds_bucket{}[$__rate_interval])))`, "p50 {{source}}"},
					{`histogram_quantile(0.99, sum by (le, source) (rate(tierlimit_decision_duration_seconds_bucket{}[$__rate_interval])))`, "p99 {{source}}"},
				},
			},
		},
	},
	{
		title: "Limits and load",
		graphs: []graph{
			{
				title: "Limits exceeded, by tier", unit: "reqps", stack: true, description: "Decisions that a limit denied. shadow: a limit in shadow mode would have denied.",
				queries: []query{{`sum by (tier, limit, result) (rate(tierlimit_limit_evaluations_total{,result!="within"}[$__rate_interval]))`, "{{tier}}: {{limit}} {{result}}"}},
			},
			{
				title: "Part of evaluations that exceeded the limit", unit: "percentunit", max: 1, description: "A limit that denies most requests is too low for its tier, or some customers need a larger one.",
				queries: []query{{`sum by (tier, limit) (rate(tierlimit_limit_evaluations_total{,result="exceeded"}[$__rate_interval])) / sum by (tier, limit) (rate(tierlimit_limit_evaluations_total{}[$__rate_interval]))`, "{{tier}}: {{limit}}"}},
			},
			{
				title: "Use of limits, p90", unit: "percentunit", max: 1, description: "In 90 of 100 measured decisions at most this part of the limit was used. A value above 1 is shown as 1.",
				queries: []query{{`histogram_quantile(0.9, sum by (le, tier, limit) (rate(tierlimit_utilization_ratio_bucket{}[$__rate_interval])))`, "{{tier}}: {{limit}}"}},
			},
			{
				title: "Holds", unit: "reqps", stack: true, description: "given_back: settled at a cost of 0. missing: a hold to settle or renew was not open. What is opened and neither settled nor given back expires.",
				queries: []query{{`sum by (event) (rate(tierlimit_holds_total{}[$__rate_interval]))`, "{{event}}"}},
			},
			{
				title: "Multipliers of adaptive limits", unit: "percentunit", max: 1, description: "The lowest of all replicas. Below 1, load has lowered the adaptive limits of the tier.",
				queries: []query{{`min by (tier) (tierlimit_multiplier{})`, "{{tier}}"}},
			},
			{
				title: "CPU utilisation that the curves follow", unit: "percentunit", max: 1,
				queries: []query{{`tierlimit_load_utilization_ratio{}`, "{{instance}}"}},
			},
			{
				title: "Age of the last CPU sample", unit: "s", negative: true, description: "-1: there was none yet.",
				queries: []query{{`tierlimit_load_sample_age_seconds{}`, "{{instance}}"}},
			},
		},
	},
	{
		title: "Redis and Postgres",
		graphs: []graph{
			{
				title: "Breakers", unit: "none", max: 1, description: "1: the replica does not call the Redis server. A server that never failed has no line.",
				queries: []query{{`tierlimit_breaker_open{}`, "{{instance}} {{server}}"}},
			},
			{
				title: "Age of the catalogue", unit: "s", description: "The age of the tiers and subjects that decisions use: a few seconds while Postgres answers.",
				queries: []query{{`tierlimit_catalogue_age_seconds{}`, "{{instance}}"}},
			},
			{
				title: "Catalogue followed", unit: "none", max: 1, description: "1: changes of tiers and subjects arrive.",
				queries: []query{{`tierlimit_catalogue_followed{}`, "{{instance}}"}},
			},
			{
				title: "Look-ups waiting", unit: "none", description: "Unknown subjects and keys that are being looked up in Postgres.",
				queries: []query{{`tierlimit_lookups_waiting{}`, "{{instance}}"}},
			},
			{
				title: "Connections to Postgres in use", unit: "none",
				queries: []query{{`sum by (pool) (tierlimit_postgres_connections{})`, "{{pool}}"}},
			},
			{
				title: "Waits for a connection to Postgres", unit: "s", description: "Seconds waited in each second, by pool.",
				queries: []query{{`sum by (pool) (rate(tierlimit_postgres_wait_seconds_total{}[$__rate_interval]))`, "{{pool}}"}},
			},
		},
	},
	{
		title: "HTTP and webhooks",
		graphs: []graph{
			{
				title: "Requests by listener and status", unit: "reqps", stack: true,
				queries: []query{{`sum by (listener, code) (rate(http_server_request_duration_seconds_count{}[$__rate_interval]))`, "{{listener}} {{code}}"}},
			},
			{
				title: "Duration of requests by listener, p99", unit: "s", description: "Until the end of the response: a WebSocket until it is closed.",
				queries: []query{{`histogram_quantile(0.99, sum by (le, listener) (rate(http_server_request_duration_seconds_bucket{}[$__rate_interval])))`, "{{listener}}"}},
			},
			{
				title: "Messages to webhooks", unit: "none", description: "pending: not received yet. dead: not sent again by themselves.",
				queries: []query{{`max(tierlimit_webhook_pending{})`, "pending"}, {`max(tierlimit_webhook_dead{})`, "dead"}},
			},
			{
				title: "Attempts to send a message", unit: "reqps", stack: true,
				queries: []query{{`sum(rate(tierlimit_webhook_delivered_total{}[$__rate_interval]))`, "received"}, {`sum(rate(tierlimit_webhook_failed_total{}[$__rate_interval]))`, "failed"}},
			},
		},
	},
	{
		title: "Processes",
		graphs: []graph{
			{
				title: "Open connections", unit: "none",
				queries: []query{
					{`tierlimit_connections{}`, "{{instance}} {{listener}}"},
					{`min by (listener) (tierlimit_connections_limit{})`, "limit of {{listener}}"},
				},
			},
			{
				title: "Replicas alive", unit: "none", description: "How many replicas each replica knows of. Without Redis each one grants its share of a max.",
				queries: []query{{`tierlimit_replicas{}`, "{{instance}}"}, {`count(tierlimit_build_info{})`, "scraped"}},
			},
			{
				title: "Decisions by replica", unit: "reqps",
				queries: []query{{`sum by (instance) (rate(tierlimit_decisions_total{}[$__rate_interval]))`, "{{instance}}"}},
			},
			{
				title: "CPU", unit: "none", description: "Processors that are busy with the replica.",
				queries: []query{{`rate(process_cpu_seconds_total{}[$__rate_interval])`, "{{instance}}"}},
			},
			{
				title: "Wait for a processor, p99", unit: "s", description: "How long goroutines that are ready wait until they run. Above 10 ms the replica has too little CPU.",
				queries: []query{{`histogram_quantile(0.99, sum by (le, instance) (rate(go_sched_latencies_seconds_bucket{}[$__rate_interval])))`, "{{instance}}"}},
			},
			{
				title: "Memory", unit: "bytes",
				queries: []query{{`process_resident_memory_bytes{}`, "{{instance}} resident"}, {`go_memstats_heap_inuse_bytes{}`, "{{instance}} heap"}},
			},
			{
				title: "Goroutines", unit: "none",
				queries: []query{{`go_goroutines{}`, "{{instance}}"}},
			},
			{
				title: "Versions", unit: "none", stack: true, description: "Replicas of each version: two versions during an upgrade.",
				queries: []query{{`count by (version) (tierlimit_build_info{})`, "{{version}}"}},
			},
		},
	},
}
