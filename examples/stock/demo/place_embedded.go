//go:build embedded

package main

import (
	"context"
	"errors"
)

var errEmbedded = errors.New(
	"this build knows SQLite and the embedded broker only: leave out -tags embedded for the others")

func (*place) ownSchema(context.Context, string, string) (string, error) { return "", errEmbedded }
