package tiers

import (
	"context"
	"time"
)

// A WindowUsage is what a subject has used of one window of a day or longer.
type WindowUsage struct {
	Subject string    `json:"subject"`
	Limit   string    `json:"limit"`
	Used    int64     `json:"used"`
	Max     int64     `json:"max"` // when the window was last charged; 0: unlimited, or not known
	EndsAt  time.Time `json:"ends_at"`
}

// A NearQuery chooses windows that are nearly used up.
type NearQuery struct {
	Over  float64     // the part of max that is used at least, 0.5 to 2
	After WindowUsage // the last one of the page before; the zero WindowUsage: the first page
	Most  int
}

// A UsageHistory knows what was used of windows of a day or longer, a few seconds late.
type UsageHistory interface {
	// NearLimits returns the running windows whose usage is at least q.Over of the max, the fullest
	// first.
	NearLimits(ctx context.Context, q NearQuery) ([]WindowUsage, error)
	// History returns the windows of a subject, of all limits if limit is "", the latest first.
	// The first may still run. Only customers have windows that have ended.
	History(ctx context.Context, subject, limit string, most int) ([]WindowUsage, error)
}
