// Package load tells how busy what is protected is, and how far each tier's adaptive limits give
// way.
//
// A [Reading] says how much of its CPUs a source uses: this process' container or host, or a
// protected service that reports, for example by a [Reporter]. A [Controller] takes the mean of
// the readings that count, each weighted by its capacity, smooths it, and follows each tier's
// curve twice a second: down at once, up slowly, lower tiers first. It is a tierlimit.Load. On a
// [Board] all replicas of a fleet have the same multipliers at every instant, so that a counter
// that they share has one max.
//
// The package scales limits; it does not shed requests that are within them.
package load
