// Package tiers knows who is on which plan.
//
// A [Catalogue] holds tiers and subjects and is what an administrator changes: memtiers in
// one process, pgtiers in Postgres. Both behave alike and pass the suite in tierstest. A
// resolver answers the engine's question, which plan a subject is on: [Static] and memtiers
// from what they hold, cache from a copy in memory of a catalogue that lives elsewhere.
//
// [Set] and [Resident] are for authors of resolvers: they compute the plan of a subject.
//
// A change is a [Command]. [Decide] implements the rules: from a [View] of the catalogue it
// computes the edits of a command. A catalogue provides the View, and writes the edits with
// an [Event] for each. An [Editor] makes changes one at a time.
//
// The package does not count anything and does not know Postgres.
package tiers
