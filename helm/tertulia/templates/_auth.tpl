{{/* What clients show of themselves: "token", "password" or "token or password"; empty if they are taken at their word. */}}
{{- define "tertulia.asksClients" -}}
{{- $ways := list }}
{{- if or .Values.auth.existingSecret .Values.auth.keys (include "tertulia.given" (list . "" "auth" "keys_file")) }}
{{- $ways = append $ways "token" }}
{{- end }}
{{- if include "tertulia.given" (list . "" "auth" "users_file") }}
{{- $ways = append $ways "password" }}
{{- end }}
{{- join " or " $ways }}
{{- end }}

{{/* The keys of the values as the server reads them. */}}
{{- define "tertulia.authKeys" -}}
{{- with .Values.auth.keys }}
{{- kindIs "string" . | ternary . (toPrettyJson .) | trim }}
{{- end }}
{{- end }}

{{/* Adds to the configuration, in place, what the values say of clients, and where the keys are mounted: (list . CONFIG). */}}
{{- define "tertulia.addAuth" -}}
{{- $config := index . 1 }}
{{- $auth := (index . 0).Values.auth }}
{{- $section := $config.auth | default dict }}
{{- $added := dict }}
{{- if or $auth.existingSecret $auth.keys }}
{{- $_ := set $added "keys_file" (list (ternary "existingSecret" "keys" (not $auth.keys)) "/etc/tertulia-auth/keys") }}
{{- end }}
{{- range $name := list "issuer" "audience" "guests" }}
{{- with get $auth $name }}
{{- $_ := set $added $name (list $name .) }}
{{- end }}
{{- end }}
{{- if $auth.guests }}
{{- range $key, $name := dict "guest_read" "guestRead" "guest_post" "guestPost" }}
{{- /* Left empty, in whatever way, it means no group at all. */}}
{{- $_ := set $added $key (list $name (get $auth $name | default "")) }}
{{- end }}
{{- end }}
{{- range $key, $one := $added }}
{{- if hasKey $section $key }}
{{- fail (printf "auth.%s and config.auth.%s exclude each other" (first $one) $key) }}
{{- end }}
{{- $_ := set $section $key (last $one) }}
{{- end }}
{{- if $added }}
{{- $_ := set $config "auth" $section }}
{{- end }}
{{- end }}

{{/* What would let in others than was meant, or nobody. */}}
{{- define "tertulia.validateAuth" -}}
{{- $auth := .Values.auth }}
{{- if and $auth.existingSecret $auth.keys }}
{{- fail "auth.existingSecret and auth.keys exclude each other: all keys have to be in one place" }}
{{- end }}
{{- $asks := include "tertulia.asksClients" . }}
{{- if and $auth.guests (not $asks) }}
{{- fail "auth.guests needs keys or passwords, without which clients are taken at their word: set auth.existingSecret to the Secret that holds keys, or auth.keys, or config.auth.users_file" }}
{{- end }}
{{- range $name := list "issuer" "audience" }}
{{- if and (get $auth $name) (not (hasPrefix "token" $asks)) }}
{{- fail (printf "auth.%s needs keys, without which nobody shows a token: set auth.existingSecret to the Secret that holds them, or auth.keys" $name) }}
{{- end }}
{{- end }}
{{- if not (kindIs "invalid" $auth.keys) }}
{{- $keys := include "tertulia.authKeys" . }}
{{- /* Whoever has the other half, or the secret, can be anybody: it is not for a ConfigMap, nor for what Helm remembers of a release. */}}
{{- if regexMatch "\"[dk]\"\\s*:|PRIVATE KEY" $keys }}
{{- fail "auth.keys is for public keys, and has a private or secret one: give the server the public one alone, or put a secret that both sides have into a Secret, and set auth.existingSecret" }}
{{- end }}
{{- /* Nor is it none: with an empty file, of keys that could not be fetched, everybody would be let in. */}}
{{- if not (regexMatch "\"kty\"\\s*:|BEGIN [A-Z ]*PUBLIC KEY" $keys) }}
{{- fail "auth.keys has no key: it must be a JWK Set, or public keys in PEM; null is none" }}
{{- end }}
{{- end }}
{{- end }}
