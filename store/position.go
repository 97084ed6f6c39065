package store

import (
	"math/big"
	"time"
)

// Place is what a consumer counts messages of: a key of a stream, in an epoch. Names are
// stored as Identity says.
type Place struct {
	Consumer string
	// Stream is the outbox and topic that number a key's messages (msgmeta.Producer).
	Stream, Key string
	// Epoch tells numbers from those that were given before the producer's database was
	// restored.
	Epoch int64
}

func (p Place) identity() Place {
	return Place{Identity(p.Consumer), Identity(p.Stream), Identity(p.Key), p.Epoch}
}

// Position is what a consumer has had of a place: which numbers are done.
type Position struct {
	Place

	// Base is where the consumer has joined: what it has had of the numbers up to there
	// isn't known.
	Base int64
	// Mark is up to where all is done. -1 says that there is no position yet.
	Mark int64
	// Waiting says that messages are kept that wait for one before them.
	Waiting bool
	// UpdatedAt is set by the database.
	UpdatedAt time.Time

	// ahead has the bit i for the number Mark+1+i.
	ahead big.Int
}

// Fresh reports whether there was no position before.
func (p *Position) Fresh() bool { return p.Mark < 0 }

// Start begins a position behind a number.
func (p *Position) Start(base int64) { p.Base, p.Mark = base, base }

// Has reports whether a number above Base is done.
func (p *Position) Has(n int64) bool {
	return n <= p.Mark || p.ahead.Bit(p.bit(n)) == 1
}

// Add says that a number is done.
func (p *Position) Add(n int64) {
	if n > p.Mark {
		p.ahead.SetBit(&p.ahead, p.bit(n), 1)
		p.catchUp()
	}
}

// PassTo says that nothing up to a number is waited for any more.
func (p *Position) PassTo(n int64) {
	if n > p.Mark {
		p.ahead.Rsh(&p.ahead, uint(n-p.Mark)) //nolint:gosec // it is positive
		p.Mark = n
		p.catchUp()
	}
}

// Ahead is how many numbers above Mark are done.
func (p *Position) Ahead() (done int) {
	for i := range p.ahead.BitLen() {
		done += int(p.ahead.Bit(i))
	}
	return done
}

func (p *Position) bit(n int64) int { return int(n - p.Mark - 1) }

func (p *Position) catchUp() {
	for p.ahead.Bit(0) == 1 {
		p.ahead.Rsh(&p.ahead, 1)
		p.Mark++
	}
}
