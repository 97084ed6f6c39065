package main

import (
	"database/sql"
	"os"

	_ "github.com/jackc/pgx/v5/stdlib" // registers the driver "pgx"
)

func openDatabase() (*sql.DB, error) {
	return sql.Open("pgx", os.Getenv("DB"))
}
