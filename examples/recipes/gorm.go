package recipes

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"gorm.io/driver/mysql"
	"gorm.io/driver/postgres"
	"gorm.io/driver/sqlite"
	"gorm.io/gorm"
	"gorm.io/gorm/clause"
	"gorm.io/gorm/logger"

	"github.com/headrace-go/headrace/store"
)

// OpenGORM gives GORM the joined database: its statements and its transactions
// (Transaction, Begin, and the one around each Create, Update and Delete) join the
// unit of work of the context that WithContext was given.
func OpenGORM(st *store.Store, config *gorm.Config) (*gorm.DB, error) {
	db := store.JoinDB(st)
	var dialector gorm.Dialector
	switch st.Dialect() {
	case store.Postgres:
		dialector = postgres.New(postgres.Config{Conn: db})
	case store.MySQL:
		// GORM would ask for the version without a context, which strict mode
		// refuses.
		dialector = mysql.New(mysql.Config{Conn: db, SkipInitializeWithVersion: true})
	case store.SQLite:
		// GORM asks for SQLite's version without a context, too; in strict mode
		// hand it a pool of your own until gorm.Open has returned.
		dialector = &sqlite.Dialector{Conn: db}
	}
	if config == nil {
		config = &gorm.Config{Logger: logger.Discard}
	}
	opened, err := gorm.Open(dialector, config)
	if err != nil {
		return nil, fmt.Errorf("open GORM: %w", err)
	}
	return opened, nil
}

// Product and Receipt are GORM's models.
type Product struct {
	Name     string `gorm:"primaryKey"`
	Quantity int
}

// Receipt is one delivery.
type Receipt struct {
	ID       int64 `gorm:"primaryKey"`
	Product  string
	Quantity int
}

// GORM uses GORM.
type GORM struct {
	// DB comes from OpenGORM.
	DB *gorm.DB
}

// Receive implements Stock. GORM's Transaction opens a savepoint within a unit of
// work.
func (g GORM) Receive(ctx context.Context, product string, quantity int) error {
	return g.DB.WithContext(ctx).Transaction(func(tx *gorm.DB) error {
		added := tx.Model(&Product{}).Where("name = ?", product).
			Update("quantity", gorm.Expr("quantity + ?", quantity))
		if added.Error != nil {
			return added.Error
		}
		if added.RowsAffected == 0 {
			if err := tx.Create(&Product{Name: product, Quantity: quantity}).Error; err != nil {
				return err
			}
		}
		return tx.Create(&Receipt{Product: product, Quantity: quantity}).Error
	})
}

// Quantity implements Stock.
func (g GORM) Quantity(ctx context.Context, product string) (int, error) {
	var p Product
	err := g.DB.WithContext(ctx).Clauses(clause.Locking{Strength: g.lock()}).First(&p, "name = ?", product).Error
	if errors.Is(err, gorm.ErrRecordNotFound) {
		return 0, nil
	}
	return p.Quantity, err
}

// lock is what SELECT … FOR takes; SQLite has no such thing and GORM leaves it
// out there.
func (g GORM) lock() string { return clause.LockingStrengthUpdate }

// Receipts implements Stock.
func (g GORM) Receipts(ctx context.Context, product string) (list []int, err error) {
	err = g.DB.WithContext(ctx).Model(&Receipt{}).Where("product = ?", product).Order("id").Pluck("quantity", &list).Error
	return list, err
}

var _ gorm.ConnPool = (*sql.DB)(nil)
