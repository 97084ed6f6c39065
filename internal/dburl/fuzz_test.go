package dburl_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/internal/dburl"
)

// Whatever stands in a URL, Parse answers with an error that keeps the password
// to itself, or with an address that can be opened or says why not.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		"", ":", "sqlite:", "sqlite:%zz", "sqlite://h", "sqlite:x?_pragma=a;b", "sqlite:///x?mode=rw", "postgres://",
		"postgres://h:x/db",
		"postgres://u:hunter2pw@h/db?sslmode=odd", "postgres:///?host=\x00", "mysql://", "mysql://u:hunter2pw@h/db?tls=odd",
		"mysql://h/db?charset=;", "mariadb://[::1]:70000/db", "oracle://u:hunter2pw@h", "\xff", "mysql://u:p@tcp(h)/db",
		"u:hunter2pw@tcp(h)/db", "tcp(:hunter2pw@)/db", "host=:hunter2pw@ dbname=x", "file::hunter2pw@",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		secret := strings.Contains(raw, ":hunter2pw@") // elsewhere it may be the host's name
		u, err := dburl.Parse(raw)
		if err != nil {
			require.ErrorIs(t, err, dburl.ErrBadURL)
			require.False(t, secret && strings.Contains(err.Error(), "hunter2pw"), err)
			return
		}
		db, err := u.ForService().Existing().Open()
		if err != nil {
			require.False(t, secret && strings.Contains(err.Error(), "hunter2pw"), err)
			return
		}
		require.NoError(t, db.Close())
	})
}
