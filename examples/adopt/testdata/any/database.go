package main

import (
	"database/sql"
	"os"

	"github.com/headrace-go/headrace/internal/dburl"
)

// openDatabase takes the place of the program's own, to run it on any database.
func openDatabase() (*sql.DB, error) {
	u, err := dburl.Parse(os.Getenv("DB"))
	if err != nil {
		return nil, err
	}
	return u.ForService().Open()
}
