package main

const (
	takeStock         = `UPDATE products SET stock = stock - $1 WHERE product = $2`
	insertReservation = `INSERT INTO reservations (order_id, product, quantity, worker) VALUES ($1, $2, $3, $4)`
	creditPoints      = `UPDATE customers SET points = points + $1 WHERE customer = $2`
	insertCredit      = `INSERT INTO credits (order_id, points) VALUES ($1, $2)`
	selectPrice       = `SELECT price FROM products WHERE product = $1`
	insertInvoice     = `INSERT INTO invoices (order_id, amount) VALUES ($1, $2)`
)
