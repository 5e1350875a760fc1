package api

import (
	_ "embed"
	"encoding/json"
	"maps"
	"net/http"
	"regexp"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/tierlimit/tierlimit/access"
	"github.com/tierlimit/tierlimit/tiers"
)

// The document is made of the operations that the listeners are made of, so that
// it cannot tell of others; what their bodies hold stands in schemas.json, which
// the tests hold against real answers.
// Its form is OpenAPI 3.1: https://spec.openapis.org/oas/v3.1.1.

//go:embed schemas.json
var schemas []byte

// mergePatch is the body of a PATCH.
const mergePatch = "MergePatch"

var (
	ofText = map[string]any{"type": "string"}
	ofName = map[string]any{"$ref": "#/components/schemas/Name"}
)

func oneOf(values ...string) map[string]any {
	return map[string]any{"type": "string", "enum": values}
}

// documented are the operations of both listeners.
func documented() (public, administration []operation) {
	public = slices.Concat(new(decisions).operations(), new(checks).operations(), Health{}.operations(false), documentOperations(publicListener))
	return public, (&admin{catalogue: noCatalogue{}}).operations()
}

// noCatalogue stands for one where operations are only told of.
type noCatalogue struct{ tiers.Catalogue }

// The servers of the document: the listeners' default addresses. In the document that a
// listener serves, the server of its own operations is "/".
const (
	publicListener = "http://127.0.0.1:8080"
	adminListener  = "http://127.0.0.1:8081"
)

// documentOperations returns the operations that serve the document as JSON and as HTML.
func documentOperations(listener string) []operation {
	written, page := sync.OnceValue(func() []byte { return writeDocument(listener) }), sync.OnceValue(writeDocs)
	serveDocument := func(w http.ResponseWriter, _ *http.Request) error {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(written()) // the client may be gone
		return nil
	}
	serveDocs := func(w http.ResponseWriter, _ *http.Request) error {
		page().serve(w)
		return nil
	}
	return []operation{
		{method: http.MethodGet, path: "/openapi.json", id: "openapi", summary: "This document", tag: "Documents", answer: "object", serve: serveDocument},
		{method: http.MethodGet, path: "/docs", id: "docs", summary: "This document, for people", tag: "Documents", answer: "page", serve: serveDocs},
	}
}

func writeDocument(listener string) []byte {
	data, err := json.MarshalIndent(document(listener), "", " ")
	if err != nil {
		panic(err) // it is ours
	}
	return data
}

type object = map[string]any

func document(listener string) object {
	paths := object{}
	public, admin := documented()
	for server, ops := range map[string][]operation{publicListener: public, adminListener: admin} {
		if server == listener {
			server = "/"
		}
		for i := range ops {
			o := &ops[i]
			item, _ := paths[o.path].(object)
			if item == nil {
				item = object{"servers": []object{{"url": server}}}
				if names := pathNames.FindAllStringSubmatch(o.path, -1); names != nil {
					item["parameters"] = pathParameters(names)
				}
				paths[o.path] = item
			}
			item[strings.ToLower(o.method)] = o.document()
		}
	}
	return object{
		"openapi": "3.1.0",
		"info": object{
			"title": "tierlimit", "version": moduleVersion(), "license": object{"name": "MIT", "identifier": "MIT"},
			"description": "Plan-aware rate limits. The public listener decides; the admin listener manages tiers, subjects and who may ask.",
		},
		"servers": []object{{"url": "/"}}, // the listener that serves the document
		"paths":   paths,
		"components": object{
			"schemas": documentSchemas(),
			"securitySchemes": object{
				"token": object{"type": "http", "scheme": "bearer"},
				"key":   object{"type": "apiKey", "in": "header", "name": "X-Api-Key"},
			},
		},
	}
}

func moduleVersion() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}

var pathNames = regexp.MustCompile(`{(\w+)}`)

func pathParameters(names [][]string) (list []object) {
	for _, name := range names {
		list = append(list, object{"name": name[1], "in": "path", "required": true, "schema": ofText})
	}
	return list
}

// documentSchemas are the schemas, those of requests among them: what a request
// may leave out is in every answer.
func documentSchemas() object {
	var all map[string]object
	if err := json.Unmarshal(schemas, &all); err != nil {
		panic(err) // it is ours
	}
	out := object{mergePatch: object{"type": "object", "description": "RFC 7396: a field that is null is taken away, one that is not named stays."}}
	for name, schema := range all {
		if needs, ok := schema["x-needs"]; ok {
			delete(schema, "x-needs")
			asked := maps.Clone(schema)
			asked["required"] = needs
			out[name+"Request"] = asked
			delete(schema, "examples") // they are of requests
		}
		out[name] = schema
	}
	for _, name := range []string{"Tier", "Subject", "Override", "Key", "Token", "Event", "NearLimit", "WindowUsage", "Webhook", "Delivery"} {
		out[name+"Page"] = pageSchema(name)
	}
	return out
}

func pageSchema(name string) object {
	return object{
		"type": "object", "additionalProperties": false, "required": []string{"data", "next_cursor", "has_more"},
		"properties": object{
			"data":        object{"type": "array", "items": ref(name)},
			"next_cursor": object{"type": "string"},
			"has_more":    object{"type": "boolean"},
		},
	}
}

func ref(name string) object { return object{"$ref": "#/components/schemas/" + name} }

func (o *operation) document() object {
	doc := object{
		"operationId": o.id, "summary": o.summary, "tags": []string{o.tag}, "responses": o.responses(),
		"security": []object{},
	}
	if len(o.rights) > 0 {
		doc["security"] = []object{{"token": []string{}}}
		doc["description"] = "Needs a token with the role " + strings.Join(o.roles(), ", ") + "."
	}
	if o.byKey {
		doc["security"] = []object{{"key": []string{}}, {"token": []string{}}}
		doc["description"] = "Needs a customer's API key, in X-Api-Key or as a bearer token."
	}
	if parameters := o.parameters(); parameters != nil {
		doc["parameters"] = parameters
	}
	if o.body != "" {
		kind := "application/json"
		if o.body == mergePatch {
			kind = "application/merge-patch+json"
		}
		doc["requestBody"] = object{"required": true, "content": object{kind: object{"schema": ref(o.bodySchema())}}}
	}
	if o.lines != "" {
		doc["requestBody"] = object{"required": true, "content": object{ndjson: object{"schema": linesOf(o.lines)}}}
	}
	return doc
}

// linesOf returns the schema of NDJSON whose lines have the given schema.
func linesOf(schema string) object {
	return object{
		"description":      "JSON objects, one a line.",
		"contentMediaType": ndjson, "contentSchema": ref(schema),
	}
}

// bodySchema is that of what is sent, where it differs from what is answered.
func (o *operation) bodySchema() string {
	if _, ok := documentSchemas()[o.body+"Request"]; ok {
		return o.body + "Request"
	}
	return o.body
}

// roles are those that may ask, the least first.
func (o *operation) roles() (list []string) {
	for _, role := range access.Roles {
		if role.May(o.rights...) {
			list = append(list, string(role))
		}
	}
	return list
}

func (o *operation) parameters() (list []object) {
	for _, p := range o.query {
		one := object{"name": p.name, "in": "query", "description": p.description, "schema": p.schema}
		if p.many {
			one["schema"] = object{"type": "array", "items": p.schema}
		}
		list = append(list, one)
	}
	if o.dryRun || o.dryRuns {
		list = append(list, object{
			"name": "dry_run", "in": "query", "description": "true answers what the change would do, and does not make it",
			"schema": object{"type": "boolean", "default": false},
		})
	}
	if o.ifMatch {
		list = append(list, object{
			"name": "If-Match", "in": "header", "required": !o.creates, "description": "the ETag of what is changed, as it was read; or * for whatever is there",
			"schema": ofText, "example": `"12"`,
		})
	}
	if o.creates {
		list = append(list, object{
			"name": "If-None-Match", "in": "header", "description": "* creates what is not there yet, in place of If-Match",
			"schema": object{"type": "string", "const": "*"},
		})
	}
	if o.repeatable {
		list = append(list, object{
			"name": "Idempotency-Key", "in": "header", "schema": object{"type": "string", "maxLength": 128},
			"description": "however often it is asked for with one key, it is created once; asked for again, the first answer comes again, with Idempotent-Replayed: true and without the secret",
		})
	}
	return list
}

func (o *operation) responses() object {
	all := object{}
	success := object{"description": "Done."}
	switch {
	case o.answerLines != "":
		success["content"] = object{ndjson: object{"schema": linesOf(o.answerLines)}}
	case o.answer == text:
		success["content"] = object{"text/plain": object{"schema": ofText}}
	case o.answer == "page":
		success["content"] = object{"text/html": object{"schema": ofText}}
	case o.answer == "object":
		success["content"] = object{"application/json": object{"schema": object{"type": "object"}}}
	case o.answer != "":
		success["content"] = object{"application/json": object{"schema": ref(o.answer)}}
	}
	headers := object{}
	if o.etag {
		headers["ETag"] = object{"schema": ofText, "description": "Its version."}
	}
	if o.location {
		headers["Location"] = object{"schema": ofText, "description": "Where it is."}
	}
	if o.conform {
		for _, name := range []string{"RateLimit", "RateLimit-Policy", "Retry-After"} {
			headers[name] = object{"schema": ofText}
		}
	}
	if len(headers) > 0 {
		success["headers"] = headers
	}
	status := max(o.status, http.StatusOK)
	all[strconv.Itoa(status)] = success
	if o.unready {
		unready := maps.Clone(success)
		unready["description"] = "Draining: send nothing more."
		all[strconv.Itoa(http.StatusServiceUnavailable)] = unready
	}
	if o.dryRun {
		tried := object{"description": "What the change would do, with dry_run=true.", "content": object{"application/json": object{"schema": ref("Effect")}}}
		if status == http.StatusOK {
			tried["description"] = "Done, or with dry_run=true what the change would do."
			tried["headers"] = headers
			tried["content"] = object{"application/json": object{"schema": object{"oneOf": []object{ref(o.answer), ref("Effect")}}}}
		}
		all[strconv.Itoa(http.StatusOK)] = tried
	}
	if o.creates {
		all[strconv.Itoa(http.StatusCreated)] = object{
			"description": "Created.", "content": object{"application/json": object{"schema": ref(o.answer)}},
			"headers": object{"ETag": object{"schema": ofText}, "Location": object{"schema": ofText}},
		}
	}
	for _, code := range o.failures() {
		all[strconv.Itoa(code)] = object{
			"description": http.StatusText(code) + ".",
			"content":     object{"application/problem+json": object{"schema": ref("Problem")}},
		}
	}
	return all
}
