{{/* The name of Service, Deployment and account. */}}
{{- define "signet.name" -}}
{{ default .Release.Name .Values.fullnameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* What the other names begin with. */}}
{{- define "signet.prefix" -}}
{{ include "signet.name" . | trimSuffix "-controller" }}
{{- end }}

{{- define "signet.account" -}}
{{ default (include "signet.name" .) .Values.serviceAccount.name }}
{{- end }}

{{/* What the roles for people begin with: in a default installation what deploy/ calls them. */}}
{{- define "signet.people" -}}
{{ if eq (include "signet.name" .) "sealed-secrets-controller" }}signet{{ else }}{{ include "signet.prefix" . }}{{ end }}
{{- end }}

{{/* The labels of an object. */}}
{{- define "signet.labels" -}}
{{ include "signet.labelsAnd" (list . dict) }}
{{- end }}

{{/* With labels of its own, which win: no key may stand there twice. */}}
{{- define "signet.labelsAnd" -}}
{{- $all := (index . 0).Values.labels | default dict }}
{{- toYaml (merge dict (index . 1 | default dict) $all (dict "app.kubernetes.io/name" "signet")) }}
{{- end }}

{{/* Whether only some namespaces are watched, as the controller decides it. */}}
{{- define "signet.single" -}}
{{- $flags := .Values.flags -}}
{{- if or (eq (toString $flags.allNamespaces) "false") $flags.additionalNamespaces $flags.namespaceSelector }}yes{{ end }}
{{- end }}

{{/* Whether GitSyncs are followed, as the controller decides it. */}}
{{- define "signet.sync" -}}
{{- $flag := toString .Values.flags.gitSync -}}
{{- $single := include "signet.single" . -}}
{{- if and $single (eq $flag "true") -}}
{{- fail "flags.gitSync: GitSyncs are followed in all namespaces or not at all: leave it out, or watch all" -}}
{{- end -}}
{{- if and (not $single) (ne $flag "false") }}yes{{ end }}
{{- end }}

{{- define "signet.syncAccount" -}}
{{ default "signet-sync" .Values.flags.syncServiceAccount }}
{{- end }}

{{/* One value of a flag as text. */}}
{{- define "signet.text" -}}
{{- if kindIs "slice" . -}}
{{ join "," . }}
{{- else if kindIs "map" . -}}
{{- $pairs := list -}}
{{- range $key, $value := . }}{{ $pairs = append $pairs (printf "%s=%v" $key $value) }}{{ end -}}
{{ join "," $pairs }}
{{- else if and (kindIs "float64" .) (eq . (floor .)) -}}
{{ int64 . }}
{{- else -}}
{{ toString . }}
{{- end -}}
{{- end }}

{{/* The command line: nothing for what is not given, but false and 0 are. */}}
{{- define "signet.args" -}}
{{- range $flag, $value := .Values.flags }}
{{- $text := "" }}
{{- if not (kindIs "invalid" $value) }}{{ $text = include "signet.text" $value }}{{ end }}
{{- if $text }}
- {{ printf "--%s=%s" (regexReplaceAll "[A-Z]" $flag "-${0}" | lower) $text | quote }}
{{- end }}
{{- end }}
{{- range .Values.extraArgs }}
- {{ quote . }}
{{- end }}
{{- end }}

{{/* The port of an address such as ":8080". */}}
{{- define "signet.port" -}}
{{ regexFind "[0-9]+$" . }}
{{- end }}

{{/* A binding to the controller's account. */}}
{{- define "signet.subject" -}}
- kind: ServiceAccount
  name: {{ include "signet.account" . }}
  namespace: {{ .Release.Namespace }}
{{- end }}

{{/* What opening SealedSecrets needs, in all namespaces or in single ones. */}}
{{- /* The controller's Service, as the API server's proxy knows it. */ -}}
{{- define "signet.proxied" -}}
- "http:{{ include "signet.name" . }}:"
- "http:{{ include "signet.name" . }}:http"
- {{ include "signet.name" . }}
{{- end }}

{{- define "signet.unsealRules" -}}
# See every SealedSecret, and say how it fares.
- apiGroups: [bitnami.com]
  resources: [sealedsecrets]
  verbs: [list, watch]
{{- if ne (toString .Values.flags.updateStatus) "false" }}
- apiGroups: [bitnami.com]
  resources: [sealedsecrets/status]
  verbs: [patch]
{{- end }}
# Notice that a Secret was edited or deleted (as metadata: the data is never asked for), and write it. Delete one that
# cannot be changed (immutable, or of another type) where its SealedSecret says that it may be replaced.
- apiGroups: [""]
  resources: [secrets]
  verbs: [list, {{ if ne (toString .Values.flags.skipRecreate) "true" }}watch, {{ end }}create, patch, delete]
# Tell what happened.
- apiGroups: [""]
  resources: [events]
  verbs: [create]
{{- end }}
