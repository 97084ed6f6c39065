package bank

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/headrace-go/headrace/effects"
)

// Call charges by the API at that address.
func Call(address string) effects.Call {
	check := func(r effects.Response) error {
		_, err := Read(r)
		return err
	}
	return effects.HTTP{Check: check}.Call(func(ctx context.Context, body []byte) (*http.Request, error) {
		return http.NewRequestWithContext(ctx, http.MethodPost, address+"/charges", bytes.NewReader(body))
	})
}

// Read returns a response's receipt.
func Read(r effects.Response) (receipt Receipt, err error) {
	if err := json.Unmarshal(r.Body, &receipt); err != nil {
		return receipt, fmt.Errorf("the bank's answer: %w", err)
	}
	if receipt.Receipt == "" {
		return receipt, errors.New("the bank's answer has no receipt")
	}
	return receipt, nil
}

// LookUp asks the API at that address what became of a charge.
func LookUp(address string) func(ctx context.Context, key string, request []byte) (effects.Response, bool, error) {
	return func(ctx context.Context, key string, _ []byte) (effects.Response, bool, error) {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, address+"/charges?key="+url.QueryEscape(key), nil)
		if err != nil {
			return effects.Response{}, false, fmt.Errorf("ask the bank: %w", err)
		}
		found, err := http.DefaultClient.Do(request)
		if err != nil {
			return effects.Response{}, false, fmt.Errorf("ask the bank: %w", err)
		}
		defer found.Body.Close() //nolint:errcheck // it was read
		body, err := io.ReadAll(found.Body)
		switch {
		case err != nil:
			return effects.Response{}, false, fmt.Errorf("ask the bank: %w", err)
		case found.StatusCode == http.StatusNotFound:
			return effects.Response{}, false, nil
		case found.StatusCode != http.StatusOK:
			return effects.Response{}, false, fmt.Errorf("ask the bank: %s", found.Status)
		}
		return effects.Response{Code: found.StatusCode, Body: body}, true, nil
	}
}
