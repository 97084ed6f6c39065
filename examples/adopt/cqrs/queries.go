package main

const (
	countBooking  = `UPDATE rooms SET bookings = bookings + 1 WHERE room = $1`
	insertBooking = `INSERT INTO bookings (booking_id, room, price) VALUES ($1, $2, $3)`
	takeBeer      = `UPDATE bar SET beers = beers - $1`
	insertBeer    = `INSERT INTO beer_orders (booking_id, beers) VALUES ($1, $2)`
	addRevenue    = `UPDATE report SET revenue = revenue + $1`
	insertAudit   = `INSERT INTO audits (booking_id) VALUES ($1)`
	addBeers      = `UPDATE report SET beers = beers + $1`
)
