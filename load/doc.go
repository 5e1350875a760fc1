// Package load tells how busy the machine is, and how far each tier's adaptive
// limits give way.
//
// One [Controller] samples the CPU twice a second, smooths what it reads and
// follows each tier's curve: down at once, up slowly, lower tiers first. It is
// a tierlimit.Load. The package scales limits; it does not shed requests that
// are within them.
package load
