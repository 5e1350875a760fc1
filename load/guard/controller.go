package guard

import (
	"math"
	"time"
)

const (
	// The queue may delay a request by the time that standing requests take, so that the service never
	// runs dry, within these bounds.
	standing       = 6
	shortestTarget = 10 * time.Millisecond
	longestTarget  = 500 * time.Millisecond

	// patience is how long a queue of twice the target must stand before requests are refused. A
	// shorter queue must stand longer, a longer one for leastReadings. A burst that the service works
	// off in less time is no overload.
	patience      = 200 * time.Millisecond
	leastReadings = 4
	// calm is how long the demand must fit the rate before the guard admits all requests again.
	calm = time.Second

	// throughputMemory is the time constant of the smoothed throughput. The capacity is the highest
	// throughput, which is forgotten with the time constant capacityMemory. While a queue stands, the
	// service is busy, and the capacity follows the throughput with busyMemory.
	throughputMemory = 250 * time.Millisecond
	busyMemory       = 2 * time.Second
	capacityMemory   = 10 * time.Second
	// leastCapacity is the least estimate of the capacity, in requests a second: a service that is
	// asked nothing cannot show that it has recovered.
	leastCapacity = 1.0

	// The rate is the capacity times a factor that falls with the pressure: 1 at a pressure of 1,
	// with this slope and within these bounds.
	slope       = 0.75
	leastFactor = 0.5
	mostFactor  = 1.5
	maxPressure = 100
)

// A reading is what was observed since the one before.
type reading struct {
	elapsed  time.Duration
	ended    int64         // requests
	answered int64         // the part of ended whose latency counts
	shortest time.Duration // latency of an answer
	inFlight int64
	wait     time.Duration // for a processor
	demand   float64       // requests asked for a second
}

// A controller turns readings into the rate at which requests are admitted. It is used by one
// goroutine at a time and knows time only as it is told.
type controller struct {
	latencies  latencies
	throughput float64       // requests that end a second, smoothed
	capacity   float64       // the highest throughput of late
	pressure   float64       // how long the queue is: more than 1 is too long
	impatience time.Duration // the time since the pressure was 1 at most, weighted by the excess
	calm       time.Duration // for how long all that is asked for has fitted
	refusing   bool
	latency    bool // whether requests are refused for their latency, and not for the wait
}

// observe returns the rate at which requests may be admitted until the next reading, in requests
// a second; +Inf: all.
func (c *controller) observe(r *reading) (rate float64) {
	if r.elapsed >= calm { // nothing was asked for: the service is idle, or only just awake
		c.refusing, c.impatience, c.calm = false, 0, 0
	}
	c.throughput += smoothing(r.elapsed, throughputMemory) * (float64(r.ended)/r.elapsed.Seconds() - c.throughput)
	c.observePressure(r)
	switch {
	case c.pressure > 1:
		c.capacity += smoothing(r.elapsed, busyMemory) * (c.throughput - c.capacity)
		c.impatience += min(time.Duration((c.pressure-1)*float64(r.elapsed)), patience/leastReadings)
	default:
		c.capacity = max(c.throughput, c.capacity*(1-smoothing(r.elapsed, capacityMemory)))
		c.impatience = 0
	}
	if !c.refusing {
		if c.impatience < patience {
			return math.Inf(1)
		}
		c.begin()
	}
	c.capacity = max(c.capacity, leastCapacity)
	rate = c.capacity * c.factor()
	if r.demand > rate {
		c.calm = 0
		return rate
	}
	if c.calm += r.elapsed; c.calm >= calm {
		c.refusing = false
	}
	return math.Inf(1)
}

// observePressure sets c.pressure, and whether latency is the reason.
func (c *controller) observePressure(r *reading) {
	delay := time.Duration(min(float64(r.inFlight)/max(c.throughput, leastCapacity), math.MaxInt32) * float64(time.Second))
	c.latencies.observe(r.elapsed, r.answered, r.shortest, delay, c.refusing && c.latency)
	waiting := r.wait.Seconds() / targetOf(c.throughput).Seconds()
	behind := c.latencies.pressure(r.inFlight, delay, c.latencies.target(c.throughput), c.refusing && c.latency)
	c.pressure = min(max(waiting, behind, 0), maxPressure)
	if !c.refusing {
		c.latency = waiting <= 1
	}
}

// begin begins to refuse requests.
func (c *controller) begin() {
	c.refusing, c.calm, c.capacity = true, 0, c.throughput
	if c.latency {
		c.latencies.doubt(c.latencies.target(c.throughput))
	}
}

func (c *controller) factor() float64 {
	if c.latency && c.latencies.draining(c.latencies.target(c.throughput)) {
		return leastFactor
	}
	return min(max(1+slope*(1-c.pressure), leastFactor), mostFactor)
}

// targetOf returns how long goroutines may wait for a processor, at a throughput in requests a
// second.
func targetOf(perSecond float64) time.Duration {
	if perSecond*longestTarget.Seconds() <= standing {
		return longestTarget
	}
	return max(shortestTarget, time.Duration(standing/perSecond*float64(time.Second)))
}
